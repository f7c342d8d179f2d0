"""Workflows of `promote`, `rollback`, `registry reconcile` and `registry pin`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from eyevsai.core.errors import JobError, UserError
from eyevsai.core.model_ref import SCHEME
from eyevsai.core.shell import quote
from eyevsai.registry.audit_log import REFUSED, previous_version, read_log, tag_call
from eyevsai.registry.entities import open_registry, read_model
from eyevsai.registry.lookup import find_name
from eyevsai.registry.settings import Policy, PromoteSettings, describe_policy, read_policy
from eyevsai.registry.stages import ARCHIVED, STAGES, archive, find_inconsistencies
from eyevsai.registry.versions import PINNED
from eyevsai.store.backend import open_store, raising_store_errors
from eyevsai.store.tags import JOB, WEIGHTS_SHA256
from eyevsai.workflows.registry.class_lists import CHECK, compare_with_stage
from eyevsai.workflows.registry.promotion_checks import Check, CheckResults, check_promotion
from eyevsai.workflows.registry.transaction import RegistryTransaction, registry_transaction

log = logging.getLogger("eyevsai")

CHECKS_FILE = "promotion_checks.json"


class NotPromotedError(JobError):
    """A version that fails a promotion check; nothing was changed."""


@dataclass(frozen=True)
class Promoted:
    """Result of a promotion, an archiving or a rollback."""

    name: str
    stage: str  # `production`, `staging` or `archived`
    before: int | None  # previous holder of the stage; the version itself if it was archived
    after: int | None  # new holder of the stage; None if the version was archived
    checks: tuple[Check, ...]  # results of the promotion checks
    run_id: str  # audit run


def promote(settings: PromoteSettings, run_id: str | None = None) -> Promoted:
    """Promote a version to a stage if it passes the promotion checks, and record it.

    With the stage `archived`, the version is archived without checks. `run_id` is the run that
    `mlflow run` created for this call; None outside of `mlflow run`.

    Raises:
        UserError: the version does not exist or is being deleted, the policy file is invalid, or
            the version for Staging is in Production.
        JobError: a check failed and was not forced, so that nothing was changed; or the store
            failed.
    """
    stage = settings.to
    with registry_transaction(str(settings.name), Path(settings.state_dir), run_id) as transaction:
        version = transaction.target(settings.version)
        number = int(version.number)
        call_tags = {JOB: "promote", "model_uri": version.uri}
        tag_call(transaction.client, run_id, f"promote {transaction.name} {number}", call_tags)
        if stage == ARCHIVED:
            return _archive(transaction, number, settings.reason)
        dataset = version.tags.get("dataset") or transaction.model().tags.get("dataset", "")
        log.info("%s", describe_policy(settings.policy))
        policy = read_policy(settings.policy, dataset)
        if stage == "staging" and transaction.current_version("production") == number:
            raise UserError(
                f"{version.uri} is in Production. Promote another version to Production first, or "
                "archive this one."
            )
        tags = {"stage": stage, "after": number, "reason": settings.reason}
        title = f"{transaction.name} {number} to {stage}"
        with transaction.recording("promote", title, tags) as record:
            results = run_checks(transaction, stage, number, policy)
            classes = compare_with_stage(transaction, stage, number)
            results = replace(
                results, checks=(*results.checks, classes.check(consented=settings.class_change))
            )
            # the status is not enough: Ctrl-C ends the audit run as FAILED, too
            record.tags({REFUSED: bool(results.failed_checks), WEIGHTS_SHA256: results.weights})
            record.json(CHECKS_FILE, results.to_json())
            record.metrics(results.metrics)
            _check_allowed(results, settings, version.uri)
            record.tags({"forced": bool(results.failed_checks), **classes.difference.tags()})
            transaction.tag(number, {f"{stage}.floor": results.floor_summary})
            before = transaction.assign_stage(
                record, stage, number, settings.reason, classes.classes
            )
        return Promoted(transaction.name, stage, before, number, results.checks, record.run_id)


def rollback(model: str, reason: str | None, state_dir: Path) -> Promoted:
    """Promote the previous version in Production again, and record it.

    That version must load; the current one need not. The policy and the class list are not
    required to match, but a different class list is logged as a warning.

    Args:
        model: name of the registered model, or a reference to its version in Production.
        reason: reason, recorded in the audit log.
        state_dir: folder of run state on this machine.

    Raises:
        UserError: the version is not in Production, or the audit log has no previous version that
            still exists, or it does not load.
        JobError: the store failed.
    """
    stage = "production"
    with registry_transaction(model, state_dir) as transaction:
        name, current = transaction.name, transaction.current_version(stage)
        if transaction.number not in (None, current):
            raise UserError(
                f"{name}/{transaction.number} is not in Production, whose previous version "
                f"rollback restores. Use: eyevsai rollback {quote(name)}"
            )
        existing = {version.number for version in transaction.model().versions}
        target = previous_version(read_log(transaction.client, name), stage, current, existing)
        if target is None:
            before_current = "" if current is None else f" before {current}"
            raise UserError(
                f"Cannot roll back {name}: the log has no existing version that was in "
                f"{stage}{before_current}. See: eyevsai registry log {quote(name)}"
            )
        tags = {"stage": stage, "after": target, "reason": reason}
        with transaction.recording("rollback", f"{name} back to {target}", tags) as record:
            version = transaction.version(target)
            results = check_promotion(transaction.tracking_uri, version, None, Policy())
            record.tags({WEIGHTS_SHA256: results.weights})
            record.json(CHECKS_FILE, results.to_json())
            record.metrics(results.metrics)
            loads = results.checks[0]
            if not loads.ok:
                raise UserError(
                    f"{loads.text} Promote another version; list them with: eyevsai registry "
                    f"status {quote(name)}"
                )
            classes = compare_with_stage(transaction, stage, target)
            if not classes.difference.is_empty:
                log.warning(
                    "The classes of %s differ from those of %s so far: %s",
                    classes.uri,
                    stage,
                    classes.difference,
                )
                record.tags(classes.difference.tags())
            before = transaction.assign_stage(record, stage, target, reason, classes.classes)
        return Promoted(name, stage, before, target, results.checks[:1], record.run_id)


def reconcile(model: str, state_dir: Path) -> tuple[str, list[str]]:
    """Sync aliases and stages with what was set by hand.

    Args:
        model: name of the registered model, or a reference to one of its versions.
        state_dir: folder of run state on this machine.

    Returns:
        The name of the registered model, and the mismatches there were.

    Raises:
        UserError: there is no such registered model.
        JobError: the store failed.
    """
    tracking_uri = open_store()
    with raising_store_errors(tracking_uri, f"Reading {model}"):
        name, _ = find_name(tracking_uri, model)
        inconsistencies = find_inconsistencies(read_model(open_registry(tracking_uri), name))
    with registry_transaction(f"{SCHEME}{name}", state_dir):
        return name, inconsistencies


def pin(
    model: str, number: int | None, state_dir: Path, *, pinned: bool, reason: str | None
) -> tuple[str, bool]:
    """Protect a version from cleanups, or remove the protection, and record it.

    Args:
        model: reference to the version, or name of its registered model.
        number: number of the version; None if `model` names the version.
        state_dir: folder of run state on this machine.
        pinned: protect the version; False removes the protection.
        reason: reason, recorded in the audit log and in a tag of the version.

    Returns:
        The URI of the version, and False if the protection to remove did not exist; then nothing
        is recorded.

    Raises:
        UserError: there is no such version.
        JobError: the store failed.
    """
    with registry_transaction(model, state_dir) as transaction:
        version = transaction.target(number)
        if not pinned and not version.tags.get(PINNED):
            return version.uri, False
        action = "pin" if pinned else "unpin"
        title, tags = f"{action} {version.name} {version.number}", {"after": version.number}
        with transaction.recording(action, title, {**tags, "reason": reason}):
            transaction.tag(int(version.number), {PINNED: (reason or "yes") if pinned else ""})
    return version.uri, True


def run_checks(
    transaction: RegistryTransaction, stage: str, number: int, policy: Policy
) -> CheckResults:
    """Check a version against the one in the stage; repeat if that one changes meanwhile."""
    before = transaction.current_version(stage)
    while True:
        other = None if before is None or before == number else transaction.version(before)
        results = check_promotion(
            transaction.tracking_uri, transaction.version(number), other, policy
        )
        if (now := transaction.current_version(stage)) == before:
            return results
        before = now


def _archive(transaction: RegistryTransaction, number: int, reason: str | None) -> Promoted:
    """Move a version to Archived and out of its stage, and record it."""
    former_stage = next(
        (stage for stage in STAGES if transaction.current_version(stage) == number), ""
    )
    tags = {"stage": former_stage, "before": number, "after": None, "reason": reason}
    title = f"{transaction.name} {number} archived"
    with transaction.recording("archive", title, tags) as record, transaction.stop.shielded():
        archive(transaction.client, transaction.name, number)
        record.finish()
        transaction.log_last_change(ARCHIVED, None, number, reason)
        if former_stage:
            transaction.log_last_change(former_stage, number, None, reason)
    return Promoted(transaction.name, ARCHIVED, number, None, (), record.run_id)


def _check_allowed(results: CheckResults, settings: PromoteSettings, uri: str) -> None:
    """Raise NotPromotedError if a check failed that is not forced; the class list cannot be.

    Logs a warning for each forced check.

    Args:
        results: results of the checks.
        settings: `force` overrides the policy.
        uri: URI of the version, for the message.
    """
    failed = [check for check in results.checks if not check.ok]
    forced = [check for check in failed if settings.force and check.name != CHECK]
    for check in forced:
        log.warning("Forced: %s", check.text)
    if blocking := [check for check in failed if check not in forced]:
        by_policy = any(check.name != CHECK for check in blocking)
        hint = " --force --reason TEXT overrides the policy and is recorded." if by_policy else ""
        refusals = "\n".join(f"- {check.text}" for check in blocking)
        raise NotPromotedError(f"{uri} is not promoted:\n{refusals}\nNothing was changed.{hint}")
