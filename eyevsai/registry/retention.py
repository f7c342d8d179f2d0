"""What may be deleted, and why the rest stays: from what was read to a plan, without asking a store
anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eyevsai.registry.audit_log import CLEANUP, MODEL
from eyevsai.registry.entities import KnownVersion, RegisteredModel
from eyevsai.registry.stages import STAGES
from eyevsai.registry.versions import PINNED, URI
from eyevsai.store.tags import (
    CLASSES_SHA256,
    COMPLETE_TRIALS,
    JOB,
    MIN_COMPLETE,
    PARENT,
    PRUNED_FROM,
    SOURCE_RUN_ID,
    SOURCE_VERSION,
)

Key = tuple[str, int]  # name and number of a version
VERSION, FAILED, STUDY, CACHE, ORPHAN, UNFINISHED = (
    "version",
    "failed run",
    "study",
    "cache",
    "orphan",
    "unfinished",
)
DATASET = "dataset"  # the tag that eyevsai's own registered models have
DAY_MS = 86_400_000


@dataclass(frozen=True)
class KnownRun:
    """What a plan needs to know of a run."""

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    ended_ms: int
    artifact_uri: str
    deleted: bool  # softly, as MLflow's UI does it


@dataclass(frozen=True)
class DeletionItem:
    """What is deleted together: versions first, then of each run its logged models, its files, and
    itself.
    """

    type: str
    target: str
    reason: str
    versions: tuple[Key, ...] = ()
    run_ids: tuple[str, ...] = ()
    model_ids: tuple[str, ...] = ()  # logged models that no run brings along
    paths: tuple[Path, ...] = ()  # files and folders beside the store
    size_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return vars(self) | {
            "versions": [f"models:/{name}/{number}" for name, number in self.versions],
            "paths": [str(path) for path in self.paths],
        }


@dataclass(frozen=True)
class DeletionPlan:
    """What goes, and of what stays the reason, by name."""

    items: tuple[DeletionItem, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """What all items take together."""
        return sum(item.size_bytes for item in self.items)

    def __add__(self, other: DeletionPlan) -> DeletionPlan:
        return DeletionPlan((*self.items, *other.items), {**self.kept, **other.kept})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "bytes": self.size_bytes,
            "items": [item.to_json() for item in self.items],
            "kept": dict(self.kept),
        }


def plan_versions(
    models: Sequence[RegisteredModel],
    running: Sequence[KnownRun],
    pruned: Iterable[KnownRun],
    keep: int,
    *,
    targets: Mapping[Key, str] = MappingProxyType({}),
    only: Collection[str] | None = None,
) -> DeletionPlan:
    """Plan the deletion of versions beyond the `keep` newest of each model, each with the run that
    it came from.

    Versions of one run are one item, and the run stays when one of them does.

    Args:
        models: all registered models, those that eyevsai did not make included: their versions may
            need ours.
        running: all runs that are RUNNING.
        pruned: the runs that made a smaller model of a version.
        keep: newest versions of each model that stay.
        targets: the versions that a rollback would restore, with the stage.
        only: names of the models whose versions may go; all by default.
    """
    ours = [model for model in models if DATASET in model.tags]
    versions = {(each.name, each.number): each for model in ours for each in model.versions}
    used, stays = in_use(running), dict[Key, str]()
    for model in ours:
        newest = {version.number for version in model.versions[-keep:]} if keep else set()
        for version in model.versions:
            why = (
                f"one of the {keep} newest"
                if version.number in newest
                else protection_reason(version, used, targets)
            )
            if only is not None and model.name not in only:
                why = why or "its model is not among those of this call"
            if why:
                stays[version.name, version.number] = why
    _add_copied(
        versions,
        stays,
        (each for model in models if DATASET not in model.tags for each in model.versions),
    )
    _add_needed(versions, stays, {run.run_id: run.tags[PRUNED_FROM] for run in pruned})
    groups: dict[object, list[KnownVersion]] = {}
    for key in sorted(versions.keys() - stays.keys()):
        groups.setdefault(versions[key].run_id or key, []).append(versions[key])
    still = {versions[key].run_id for key in stays}
    items = (_version_item(group, keep, still) for group in groups.values())
    return DeletionPlan(
        tuple(items),
        {f"models:/{name}/{number}": stays[name, number] for name, number in sorted(stays)},
    )


def _add_copied(
    versions: Mapping[Key, KnownVersion], stays: dict[Key, str], copies: Iterable[KnownVersion]
) -> None:
    """Add the versions whose run or logged model a version of somebody's own registered model has,
    too.
    """
    needed = {shared: copy.uri for copy in copies for shared in {copy.run_id, copy.model_id} - {""}}
    for key, version in versions.items():
        by = needed.get(version.run_id) or needed.get(version.model_id)
        if by and key not in stays:
            stays[key] = f"needed by {by}"


def _version_item(group: Sequence[KnownVersion], keep: int, still: set[str]) -> DeletionItem:
    run_id = group[0].run_id
    names = ", ".join(sorted({version.name for version in group}))
    return DeletionItem(
        VERSION,
        ", ".join(version.uri for version in group),
        f"older than the {keep} newest of {names}",
        tuple((version.name, version.number) for version in group),
        (run_id,) if run_id and run_id not in still else (),
    )


def protection_reason(
    version: KnownVersion, used: Mapping[str, str], targets: Mapping[Key, str]
) -> str | None:
    """Return why a version stays whatever its age; None if nothing protects it.

    Args:
        version: the version.
        used: the result of `in_use`.
        targets: the versions that a rollback would restore, with the stage.
    """
    if version.stage in STAGES.values():
        return f"in {version.stage}"
    if version.aliases:
        return f"has the alias {', '.join(version.aliases)}"
    if version.tags.get(PINNED):
        return f"pinned: {version.tags[PINNED]}"
    if stage := targets.get((version.name, version.number)):
        return f"rollback would restore it in {stage}"
    by = used.get(version.uri) or (used.get(version.run_id) if version.run_id else None)
    return f"in use by run {by}, which is RUNNING" if by else None


def in_use(running: Iterable[KnownRun]) -> dict[str, str]:
    """Runs and URIs of versions that a RUNNING run is about, and by which one; itself included."""
    used = dict[str, str]()
    for run in running:
        if run.tags.get("action") == CLEANUP:  # it says which versions it deletes
            continue
        named = [
            run.tags.get(name, "") for name in (SOURCE_RUN_ID, "model_uri", PRUNED_FROM, PARENT)
        ]
        named += [
            f"models:/{name.removeprefix(MODEL)}/{number}"
            for name, number in run.tags.items()
            if name.startswith(MODEL)
        ]
        used |= {each: run.run_id for each in (run.run_id, *named) if each}
    return used


def _add_needed(
    versions: Mapping[Key, KnownVersion], stays: dict[Key, str], pruned: Mapping[str, str]
) -> None:
    """Adds to what stays what that needs, and so on until nothing more is needed."""
    by_run: dict[str, list[Key]] = {}  # and by logged model
    for each, version in versions.items():
        for shared in {version.run_id, version.model_id} - {""}:
            by_run.setdefault(shared, []).append(each)
    waiting = list(stays)
    while waiting:
        needing = versions[waiting.pop()]
        needed = [
            _key(needing.tags.get(SOURCE_VERSION, "")),
            _key(needing.tags.get(PRUNED_FROM, "")),
            _key(pruned.get(needing.run_id, "")),
        ]
        sharing = [*by_run.get(needing.run_id, ()), *by_run.get(needing.model_id, ())]
        # a pointer owns nothing
        needed += [other for other in sharing if SOURCE_VERSION not in versions[other].tags]
        for key in filter(None, needed):
            if key in versions and key not in stays:
                stays[key] = f"needed by {needing.uri}"
                waiting.append(key)


def _key(uri: str) -> Key | None:
    parts = URI.fullmatch(uri)
    return (parts["name"], int(parts["version"])) if parts and parts["version"] else None


def plan_ended(
    ended: Iterable[KnownRun],
    running: Sequence[KnownRun],
    registered: Collection[str],
    here: Collection[str],
    *,
    days: float,
    now_ms: int,
) -> DeletionPlan:
    """Plan the deletion of FAILED runs, and of KILLED ones that ended more than `days` ago, without
    a version.

    Args:
        ended: runs that are FAILED or KILLED.
        running: all runs that are RUNNING.
        registered: the ids of runs with a version.
        here: the ids of runs with a checkpoint on this machine, which `--resume` could use.
        days: the age from which KILLED runs go; a person may have interrupted a younger one to
            resume it.
        now_ms: the current time in milliseconds since 1970.
    """
    used, items, kept = in_use(running), [], {}
    for run in ended:
        if run.run_id in registered or run.tags.get(JOB) == "tune":  # a study goes as a study
            continue
        by = used.get(run.run_id) or used.get(run.tags.get(PARENT, ""))
        if by:
            kept[f"run {run.run_id}"] = f"in use by run {by}, which is RUNNING"
        elif run.status == "KILLED" and now_ms - run.ended_ms <= days * DAY_MS:
            kept[f"run {run.run_id}"] = f"KILLED less than {days:g} days ago"
        else:
            why = (
                f"{run.status}, but could be resumed: --resume"
                if run.run_id in here
                else run.status
            )
            items.append(
                DeletionItem(FAILED, f"run {run.run_id} ({run.name})", why, run_ids=(run.run_id,))
            )
    return DeletionPlan(tuple(items), kept)


def plan_studies(
    studies: Sequence[KnownRun],
    trials: Iterable[KnownRun],
    running: Sequence[KnownRun],
    days: float,
    now_ms: int,
) -> DeletionPlan:
    """Studies that ended more than `days` ago, with their trials, but for those whose best settings
    train takes.
    """
    used, items, kept = in_use(running), [], {}
    of_study: dict[str, list[str]] = {}
    for trial in trials:
        of_study.setdefault(trial.tags[PARENT], []).append(trial.run_id)
    newest = dict[tuple[str | None, ...], KnownRun]()
    for study in sorted(studies, key=lambda study: study.ended_ms):
        if study.status == "FINISHED":
            newest[_about(study)] = study
    proven = {
        _about(study): study
        for study in sorted(studies, key=lambda study: study.ended_ms)
        if study.status == "FINISHED" and int(study.tags.get(COMPLETE_TRIALS, "0")) >= MIN_COMPLETE
    }
    for study in studies:
        what = f"study {study.tags.get('study', study.name)} (run {study.run_id})"
        if by := used.get(study.run_id):
            kept[what] = f"in use by run {by}, which is RUNNING"
        elif study is newest.get(_about(study)):
            kept[what] = (
                "the newest finished study of its model and dataset: train takes its settings"
            )
        elif study is proven.get(_about(study)):
            kept[what] = (
                f"the newest with {MIN_COMPLETE} complete trials of its model and dataset: "
                "train may take it"
            )
        elif now_ms - study.ended_ms <= days * DAY_MS:
            kept[what] = f"ended less than {days:g} days ago"
        else:
            number = len(of_study.get(study.run_id, ()))
            run_ids = (*of_study.get(study.run_id, ()), study.run_id)
            why = f"ended {(now_ms - study.ended_ms) / DAY_MS:.0f} days ago, with {number} trials"
            items.append(DeletionItem(STUDY, what, why, run_ids=run_ids))
    return DeletionPlan(tuple(items), kept)


def _about(study: KnownRun) -> tuple[str | None, ...]:
    return tuple(study.tags.get(name) for name in (DATASET, "model", "variation", CLASSES_SHA256))
