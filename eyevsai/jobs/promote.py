"""promote, rollback, settle: which version is in Production, changed with care and written down."""

from __future__ import annotations

import getpass
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.errors import RunFailed, UserError
from eyevsai.jobs.gate import Check, Verdict, examine
from eyevsai.jobs.opening import open_swept_store
from eyevsai.jobs.signals import ending_with_mlflow_run, stopping
from eyevsai.registry.settings import Policy, PromoteSettings, read_policy

if TYPE_CHECKING:
    from eyevsai.registry.models import Client, RegisteredModel

log = logging.getLogger("eyevsai")

BACK = ("rollback", "settle")  # actions that a rollback does not go back behind
GATE = "gate.json"


@dataclass(frozen=True)
class Promoted:
    """What was done: who held the stage, who holds it now, and what was asked first."""

    name: str
    stage: str
    before: int | None
    after: int | None
    checks: tuple[Check, ...]
    run_id: str  # where it is recorded

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {"checks": [vars(check) for check in self.checks]}


def promote(settings: PromoteSettings, run_id: str | None = None) -> Promoted:
    """Gives a stage to a version that the policy has nothing against, and writes it down.

    `run_id` is the run that `mlflow run` made for this call, if one did.

    Raises:
        UserError: there is no such version, or it is about to be deleted.
        RunFailed: the policy is against it; nothing was changed.
    """
    with stopping(), ending_with_mlflow_run() if run_id else nullcontext():
        return _promote(settings, run_id)


def _promote(settings: PromoteSettings, run_id: str | None) -> Promoted:
    from eyevsai.registry.audit import tag_call
    from eyevsai.registry.stages import ARCHIVED, holder_of, put
    from eyevsai.registry.versions import find_version

    tracking_uri = open_swept_store(Path(settings.state_root).expanduser())
    name, number, stage = str(settings.name), int(settings.version or 0), settings.to
    client, model = _open(tracking_uri, name)
    tag_call(client, run_id, {"job": "promote", "subject": f"models:/{name}/{number}"})
    version = find_version(tracking_uri, f"models:/{name}/{number}")
    if stage == ARCHIVED:
        return _archive(client, model, number, settings.reason)
    policy = read_policy(settings.policy, version.tags.get("dataset") or model.tags.get("dataset", ""))
    _take_over_what_was_set_by_hand(client, model)
    if stage == "staging" and holder_of(model, "production").version == number:
        raise UserError(f"models:/{name}/{number} is in Production. Promote another one there first, or archive it.")
    before = holder_of(model, stage).version
    about = {"stage": stage, "before": before, "after": number, "reason": settings.reason, "forced": settings.force}
    with _recording(client, "promote", name, f"{name} {number} to {stage}", about) as record:
        held = find_version(tracking_uri, f"models:/{name}/{before}") if before not in (None, number) else None
        verdict = examine(tracking_uri, version, held, policy)
        record.json(GATE, verdict.to_json())
        record.metrics(verdict.figures)
        _refuse(verdict, settings, version.uri)
        put(client, name, stage, number)
        if stage == "production" and model.aliases.get("staging") == number:
            put(client, name, "staging", None)
        _tag(client, name, number, stage, settings.reason)
        _tag_until(client, name, before, stage)
    return Promoted(name, stage, before, number, verdict.checks, record.run_id)


def rollback(name: str, reason: str | None, state_root: Path, *, stage: str = "production") -> Promoted:
    """Puts back the version that held Production before, whether or not the one that holds it now can load.

    Raises:
        UserError: there is none before, or it does not load either.
    """
    from eyevsai.registry.audit import read_log
    from eyevsai.registry.stages import holder_of, put
    from eyevsai.registry.versions import find_version

    tracking_uri = open_swept_store(state_root)
    client, model = _open(tracking_uri, name)
    _take_over_what_was_set_by_hand(client, model)
    current, there = holder_of(model, stage).version, {version.number for version in model.versions}
    target = _find_before(read_log(client, name), stage, current, there)
    if target is None:
        now = "nobody" if current is None else str(current)
        raise UserError(f"The log knows no version of {name} that was in {stage} before {now} and is still there: "
                        f"eyevsai registry log {name}")  # fmt: skip
    about = {"stage": stage, "before": current, "after": target, "reason": reason}
    with _recording(client, "rollback", name, f"{name} back to {target}", about) as record:
        verdict = examine(tracking_uri, find_version(tracking_uri, f"models:/{name}/{target}"), None, Policy())
        record.json(GATE, verdict.to_json())
        record.metrics(verdict.figures)
        loads = verdict.checks[0]
        if not loads.ok:
            raise UserError(f"{loads.text} Promote another one: eyevsai registry status {name}")
        put(client, name, stage, target)
        _tag(client, name, target, stage, reason)
        _tag_until(client, name, current, stage)
    return Promoted(name, stage, current, target, verdict.checks[:1], record.run_id)


def settle(name: str, state_root: Path) -> list[str]:
    """Leads aliases and stages after what was set by hand; returns what was found, in words."""
    from eyevsai.registry.stages import disagreements

    client, model = _open(open_swept_store(state_root), name)
    found = disagreements(model)
    _take_over_what_was_set_by_hand(client, model)
    return found


def pin(name: str, version: int, state_root: Path, *, pinned: bool, reason: str | None) -> None:
    """Says that no cleanup may delete a version, or that one may again."""
    from eyevsai.registry.versions import PINNED, find_version

    tracking_uri = open_swept_store(state_root)
    client, _ = _open(tracking_uri, name)
    find_version(tracking_uri, f"models:/{name}/{version}")
    action = "pin" if pinned else "unpin"
    with _recording(client, action, name, f"{action} {name} {version}", {"after": version, "reason": reason}):
        if pinned:
            client.set_model_version_tag(name, str(version), PINNED, reason or "yes")
        else:
            client.delete_model_version_tag(name, str(version), PINNED)


def _open(tracking_uri: str, name: str) -> tuple[Client, RegisteredModel]:
    from eyevsai.registry.models import open_registry, read_model

    client = open_registry(tracking_uri)
    return client, read_model(client, name)


def _recording(client: Client, action: str, name: str, title: str, about: Mapping[str, Any]) -> Any:
    from eyevsai.registry.audit import MODEL, recording
    from eyevsai.tracking.process import owner

    tags = {"model": name, f"{MODEL}{name}": about.get("after") or about.get("before"), **owner(), **about}
    return recording(client, action, title, tags)


def _archive(client: Client, model: RegisteredModel, number: int, reason: str | None) -> Promoted:
    from eyevsai.registry.stages import STAGES, archive, holder_of

    _take_over_what_was_set_by_hand(client, model)
    held = next((stage for stage in STAGES if holder_of(model, stage).version == number), "")
    about = {"stage": held, "before": number, "after": None, "reason": reason}
    with _recording(client, "archive", model.name, f"{model.name} {number} archived", about) as record:
        archive(client, model.name, number)
        _tag(client, model.name, number, "archived", reason)
    return Promoted(model.name, "archived", number if held else None, None, (), record.run_id)


def _refuse(verdict: Verdict, settings: PromoteSettings, uri: str) -> None:
    if not verdict.refusals:
        return
    if settings.force:
        for refusal in verdict.refusals:
            log.warning("Forced: %s", refusal)
        return
    raise RunFailed("\n".join([
        f"{uri} is not promoted:", *(f"- {refusal}" for refusal in verdict.refusals),
        "Nothing was changed. --force --reason TEXT goes past the policy, and is recorded.",
    ]))  # fmt: skip


def _take_over_what_was_set_by_hand(client: Client, model: RegisteredModel) -> None:
    """So that the log has no gaps: what it does not know was done in MLflow's UI, or by a command that was killed."""
    from eyevsai.registry.stages import STAGES, holder_of, put, written

    for stage in STAGES:
        holder, known = holder_of(model, stage), written(model, stage)
        if holder.by_hand is None:
            continue
        reason = f"found: the {holder.by_hand} was set by hand, or by a command that was interrupted"
        about = {"stage": stage, "before": known, "after": holder.version, "reason": reason}
        with _recording(client, "found", model.name, f"{model.name} {holder.version} found in {stage}", about):
            put(client, model.name, stage, holder.version)


def _find_before(entries: Any, stage: str, current: int | None, there: set[int]) -> int | None:
    """The version that held a stage before the current one; further back where that is gone."""
    done = [entry for entry in entries if entry.status == "FINISHED" and entry.stage == stage]
    held = [entry for entry in done if entry.action not in BACK]
    wanted = current
    for entry in reversed(held):
        if entry.after != wanted:
            continue
        if entry.before in there and entry.before != current:
            return int(entry.before)
        wanted = entry.before
    return None


def _tag(client: Client, name: str, version: int, stage: str, reason: str | None) -> None:
    """Says on a version since when it holds a stage, by whom and why."""
    told = {"at": _now(), "by": getpass.getuser(), "reason": reason or ""}
    _set_tags(client, name, version, {f"{stage}.{key}": value for key, value in told.items()})
    client.delete_model_version_tag(name, str(version), f"{stage}.until")  # of a time before


def _tag_until(client: Client, name: str, before: int | None, stage: str) -> None:
    """Says on the version that held a stage until when it did."""
    if before is not None:
        _set_tags(client, name, before, {f"{stage}.until": _now()})


def _set_tags(client: Client, name: str, version: int, tags: Mapping[str, str]) -> None:
    from eyevsai.registry.models import insisting

    for key, value in tags.items():
        insisting(partial(client.set_model_version_tag, name, str(version), key, value))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
