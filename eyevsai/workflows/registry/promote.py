"""promote, rollback, reconcile, pin: which version is in Production, changed with care and written
down.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from eyevsai.core.errors import JobError, UserError
from eyevsai.registry.audit_log import REFUSED, previous_version, read_log, tag_call
from eyevsai.registry.entities import open_registry, read_model
from eyevsai.registry.settings import Policy, PromoteSettings, read_policy
from eyevsai.registry.stages import ARCHIVED, STAGES, archive, find_inconsistencies
from eyevsai.registry.versions import PINNED
from eyevsai.store.backend import open_store, raising_store_errors
from eyevsai.store.tags import JOB, WEIGHTS_SHA256
from eyevsai.workflows.registry.class_lists import CHECK, compare_with_stage
from eyevsai.workflows.registry.promotion_checks import Check, CheckResults, check_promotion
from eyevsai.workflows.registry.transaction import RegistryTransaction, registry_transaction

log = logging.getLogger("eyevsai")

CHECKS_FILE = "promotion_checks.json"


@dataclass(frozen=True)
class Promoted:
    """What was done: who held the stage, who holds it now, and what was asked first."""

    name: str
    stage: str
    before: int | None
    after: int | None
    checks: tuple[Check, ...]
    run_id: str  # where it is recorded


def promote(settings: PromoteSettings, run_id: str | None = None) -> Promoted:
    """Gives a stage to a version that the policy has nothing against, and writes it down.

    `run_id` is the run that `mlflow run` made for this call, if one did.

    Raises:
        UserError: there is no such version, or it is about to be deleted.
        JobError: the policy is against it, and nothing was changed; or the store went away.
    """
    number, stage = int(settings.version or 0), settings.to
    with registry_transaction(str(settings.name), Path(settings.state_dir), run_id) as change:
        version = change.version(number)
        tag_call(change.client, run_id, {JOB: "promote", "model_uri": version.uri})
        if stage == ARCHIVED:
            return _archive(change, number, settings.reason)
        dataset = version.tags.get("dataset") or change.model().tags.get("dataset", "")
        policy = read_policy(settings.policy, dataset)
        if stage == "staging" and change.current_version("production") == number:
            raise UserError(
                f"{version.uri} is in Production. Promote another one there first, or archive it."
            )
        about = {"stage": stage, "after": number, "reason": settings.reason}
        with change.recording("promote", f"{change.name} {number} to {stage}", about) as record:
            results = _check(change, stage, number, policy)
            classes = compare_with_stage(change, stage, number)
            results = replace(
                results, checks=(*results.checks, classes.check(consented=settings.class_change))
            )
            # REFUSED, which FAILED does not say: Ctrl-C ends a record so, too
            record.tags({REFUSED: bool(results.failed_checks), WEIGHTS_SHA256: results.weights})
            record.json(CHECKS_FILE, results.to_json())
            record.metrics(results.metrics)
            _check_allowed(results, settings, version.uri)
            record.tags({"forced": bool(results.failed_checks), **classes.difference.tags()})
            before = change.assign_stage(record, stage, number, settings.reason, classes.classes)
        return Promoted(change.name, stage, before, number, results.checks, record.run_id)


def rollback(name: str, reason: str | None, state_dir: Path) -> Promoted:
    """Puts back the version that held Production before, whether or not the one that holds it now
    can load.

    Raises:
        UserError: there is none before, or it does not load either.
        JobError: the store went away.
    """
    stage = "production"
    with registry_transaction(name, state_dir) as change:
        current, there = (
            change.current_version(stage),
            {version.number for version in change.model().versions},
        )
        target = previous_version(read_log(change.client, name), stage, current, there)
        if target is None:
            whose = "" if current is None else f" before {current}"
            raise UserError(
                f"The log knows no version of {name} that was in {stage}{whose} and is still "
                f"there: eyevsai registry log {name}"
            )
        about = {"stage": stage, "after": target, "reason": reason}
        with change.recording("rollback", f"{name} back to {target}", about) as record:
            results = check_promotion(change.tracking_uri, change.version(target), None, Policy())
            record.tags({WEIGHTS_SHA256: results.weights})
            record.json(CHECKS_FILE, results.to_json())
            record.metrics(results.metrics)
            loads = results.checks[0]
            if not loads.ok:
                raise UserError(f"{loads.text} Promote another one: eyevsai registry status {name}")
            classes = compare_with_stage(change, stage, target)
            if not classes.difference.is_empty:
                log.warning(
                    "%s has other classes than %s has had: %s",
                    classes.uri,
                    stage,
                    classes.difference,
                )
                record.tags(classes.difference.tags())
            before = change.assign_stage(record, stage, target, reason, classes.classes)
        return Promoted(name, stage, before, target, results.checks[:1], record.run_id)


def reconcile(name: str, state_dir: Path) -> list[str]:
    """Leads aliases and stages after what was set by hand; returns what was found, in words."""
    tracking_uri = open_store()
    with raising_store_errors(tracking_uri, f"Reading {name}"):
        found = find_inconsistencies(read_model(open_registry(tracking_uri), name))
    with registry_transaction(name, state_dir):
        return found


def pin(name: str, version: int, state_dir: Path, *, pinned: bool, reason: str | None) -> None:
    """Says that no cleanup may delete a version, or that one may again."""
    with registry_transaction(name, state_dir) as change:
        change.version(version)
        action = "pin" if pinned else "unpin"
        with change.recording(
            action, f"{action} {name} {version}", {"after": version, "reason": reason}
        ):
            change.tag(version, {PINNED: (reason or "yes") if pinned else ""})


def _check(change: RegistryTransaction, stage: str, number: int, policy: Policy) -> CheckResults:
    """Check a version against the one in the stage; repeat if that one changes meanwhile."""
    before = change.current_version(stage)
    while True:
        other = None if before is None or before == number else change.version(before)
        results = check_promotion(change.tracking_uri, change.version(number), other, policy)
        if (now := change.current_version(stage)) == before:
            return results
        before = now


def _archive(change: RegistryTransaction, number: int, reason: str | None) -> Promoted:
    held = next((stage for stage in STAGES if change.current_version(stage) == number), "")
    about = {"stage": held, "before": number, "after": None, "reason": reason}
    title = f"{change.name} {number} archived"
    with change.recording("archive", title, about) as record, change.stop.shielded():
        archive(change.client, change.name, number)
        record.finish()
        change.log_last_change(ARCHIVED, None, number, reason)
        if held:
            change.log_last_change(held, number, None, reason)
    return Promoted(change.name, ARCHIVED, number, None, (), record.run_id)


def _check_allowed(results: CheckResults, settings: PromoteSettings, uri: str) -> None:
    """Raises JobError for what the policy is against, unless it is forced, and for other classes
    in any case.
    """
    failed = [check for check in results.checks if not check.ok]
    forced = [check for check in failed if settings.force and check.name != CHECK]
    for check in forced:
        log.warning("Forced: %s", check.text)
    if left := [check for check in failed if check not in forced]:
        by_policy = any(check.name != CHECK for check in left)
        hint = " --force --reason TEXT goes past the policy, and is recorded." if by_policy else ""
        refusals = "\n".join(f"- {check.text}" for check in left)
        raise JobError(f"{uri} is not promoted:\n{refusals}\nNothing was changed.{hint}")
