"""Retention policy as pure functions: from registry entities to a deletion plan."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eyevsai.core.model_ref import parse_version_uri
from eyevsai.core.quantities import format_count
from eyevsai.registry.audit_log import CLEANUP
from eyevsai.registry.audit_tags import MODEL, model_of_tag
from eyevsai.registry.entities import KnownVersion, RegisteredModel
from eyevsai.registry.stages import STAGES
from eyevsai.registry.versions import PINNED
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
DATASET = "dataset"  # tag of each registered model that eyevsai created
DAY_MS = 86_400_000


@dataclass(frozen=True)
class KnownRun:
    """Snapshot of a run."""

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    ended_ms: int  # since 1970; the start if it has not ended
    artifact_uri: str
    deleted: bool  # soft-deleted, as in MLflow's UI


@dataclass(frozen=True)
class DeletionItem:
    """Entities that are deleted together.

    Versions are deleted first, then files, then the rows of logged models and runs.
    """

    type: str  # VERSION, FAILED, STUDY, CACHE, ORPHAN or UNFINISHED
    target: str  # name in the plan
    reason: str
    versions: tuple[Key, ...] = ()
    run_ids: tuple[str, ...] = ()
    model_ids: tuple[str, ...] = ()  # logged models of none of these runs
    paths: tuple[Path, ...] = ()  # further files and folders
    size_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the item as JSON values."""
        return vars(self) | {
            "versions": [f"models:/{name}/{number}" for name, number in self.versions],
            "paths": [str(path) for path in self.paths],
        }


@dataclass(frozen=True)
class DeletionPlan:
    """Items to delete, and the reason for each entity that is kept."""

    items: tuple[DeletionItem, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Size of all items in bytes."""
        return sum(item.size_bytes for item in self.items)

    def __add__(self, other: DeletionPlan) -> DeletionPlan:
        return DeletionPlan((*self.items, *other.items), {**self.kept, **other.kept})

    def to_json(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
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
    """Plan the deletion of versions beyond the `keep` newest of each model, with their runs.

    Versions of one run are one item. The run itself is kept if one of its versions is.

    Args:
        models: all registered models, including those of other programs, which may need our
            versions.
        running: all RUNNING runs.
        pruned: runs that pruned the model of a version.
        keep: number of newest versions of each model to keep.
        targets: versions that a rollback would restore, with the stage.
        only: names of the models whose versions may be deleted; all by default.
    """
    ours = [model for model in models if DATASET in model.tags]
    versions = {(each.name, each.number): each for model in ours for each in model.versions}
    used, kept = in_use(running), dict[Key, str]()
    for model in ours:
        newest = {version.number for version in model.versions[-keep:]} if keep else set()
        for version in model.versions:
            reason = (
                f"one of the {keep} newest"
                if version.number in newest
                else protection_reason(version, used, targets)
            )
            if only is not None and model.name not in only:
                reason = reason or "its model is not selected"
            if reason:
                kept[version.name, version.number] = reason
    others = (each for model in models if DATASET not in model.tags for each in model.versions)
    _keep_shared(versions, kept, others)
    _keep_needed(versions, kept, {run.run_id: run.tags for run in pruned})
    groups: dict[object, list[KnownVersion]] = {}
    for key in sorted(versions.keys() - kept.keys()):
        groups.setdefault(versions[key].run_id or key, []).append(versions[key])
    kept_runs = {versions[key].run_id for key in kept}
    items = (_version_item(group, keep, kept_runs) for group in groups.values())
    return DeletionPlan(
        tuple(items),
        {f"models:/{name}/{number}": kept[name, number] for name, number in sorted(kept)},
    )


def _keep_shared(
    versions: Mapping[Key, KnownVersion], kept: dict[Key, str], copies: Iterable[KnownVersion]
) -> None:
    """Keep the versions that share a run or a logged model with another program's version."""
    needed = {shared: copy.uri for copy in copies for shared in {copy.run_id, copy.model_id} - {""}}
    for key, version in versions.items():
        user = needed.get(version.run_id) or needed.get(version.model_id)
        if user and key not in kept:
            kept[key] = f"needed by {user}"


def _version_item(group: Sequence[KnownVersion], keep: int, kept_runs: set[str]) -> DeletionItem:
    run_id = group[0].run_id
    names = ", ".join(sorted({version.name for version in group}))
    return DeletionItem(
        VERSION,
        ", ".join(version.uri for version in group),
        f"older than the {keep} newest of {names}",
        tuple((version.name, version.number) for version in group),
        (run_id,) if run_id and run_id not in kept_runs else (),
    )


def protection_reason(
    version: KnownVersion, used: Mapping[str, str], targets: Mapping[Key, str]
) -> str | None:
    """Return why a version must be kept whatever its age; None if nothing protects it.

    Args:
        version: version to check.
        used: result of `in_use`.
        targets: versions that a rollback would restore, with the stage.
    """
    if version.stage in STAGES.values():
        return f"in {version.stage}"
    if version.aliases:
        return f"has the alias {', '.join(version.aliases)}"
    if version.tags.get(PINNED):
        return f"pinned: {version.tags[PINNED]}"
    if stage := targets.get((version.name, version.number)):
        return f"rollback would restore it in {stage}"
    user = used.get(version.uri) or (used.get(version.run_id) if version.run_id else None)
    return f"in use by run {user}, which is RUNNING" if user else None


def in_use(running: Iterable[KnownRun]) -> dict[str, str]:
    """Return the ids of runs and the URIs of versions in use, each with the run that uses it.

    Each RUNNING run uses itself. Runs of cleanups are ignored.
    """
    used = dict[str, str]()
    for run in running:
        if run.tags.get("action") == CLEANUP:  # its tags name the versions that it deletes
            continue
        names = [
            run.tags.get(name, "") for name in (SOURCE_RUN_ID, "model_uri", PRUNED_FROM, PARENT)
        ]
        names += [
            f"models:/{model_of_tag(name, run.tags)}/{number}"
            for name, number in run.tags.items()
            if name.startswith(MODEL)
        ]
        used |= {each: run.run_id for each in (run.run_id, *names) if each}
    return used


def _keep_needed(
    versions: Mapping[Key, KnownVersion],
    kept: dict[Key, str],
    pruned: Mapping[str, Mapping[str, str]],
) -> None:
    """Keep what the kept versions need, directly or indirectly.

    Runs are compared, too, because the URI of a version changes when its model is renamed.

    Args:
        versions: versions by name and number.
        kept: reasons of the versions to keep, to which the needed ones are added.
        pruned: tags of the runs that pruned the model of a version, by run id.
    """
    by_source: dict[str, list[Key]] = {}  # by the ids of the run and of the logged model
    for each, version in versions.items():
        for shared in {version.run_id, version.model_id} - {""}:
            by_source.setdefault(shared, []).append(each)
    waiting = list(kept)
    while waiting:
        needing = versions[waiting.pop()]
        tags = {**pruned.get(needing.run_id, {}), **needing.tags}
        needed = [parse_version_uri(tags.get(tag, "")) for tag in (SOURCE_VERSION, PRUNED_FROM)]
        sources = (needing.run_id, needing.model_id, tags.get(SOURCE_RUN_ID, ""))
        sharing = [key for source in sources for key in by_source.get(source, ())]
        # a reference owns no files
        needed += [other for other in sharing if SOURCE_VERSION not in versions[other].tags]
        for key in filter(None, needed):
            if key in versions and key not in kept:
                kept[key] = f"needed by {needing.uri}"
                waiting.append(key)


def plan_ended(
    runs: Iterable[KnownRun],
    running: Sequence[KnownRun],
    registered: Collection[str],
    resumable: Collection[str],
    *,
    days: float,
    now_ms: int,
) -> DeletionPlan:
    """Plan the deletion of FAILED runs and of old KILLED runs without a version.

    Args:
        runs: runs that are FAILED or KILLED.
        running: all RUNNING runs.
        registered: ids of the runs with a version.
        resumable: ids of the runs with a checkpoint on this machine.
        days: minimum age of KILLED runs; the user may have interrupted a younger one to resume it.
        now_ms: current time in milliseconds since 1970.
    """
    used, items, kept = in_use(running), [], {}
    for run in runs:
        if run.run_id in registered or run.tags.get(JOB) == "tune":  # `plan_studies` plans studies
            continue
        user = used.get(run.run_id) or used.get(run.tags.get(PARENT, ""))
        if user:
            kept[f"run {run.run_id}"] = f"in use by run {user}, which is RUNNING"
        elif run.status == "KILLED" and now_ms - run.ended_ms <= days * DAY_MS:
            kept[f"run {run.run_id}"] = f"KILLED less than {days:g} days ago"
        else:
            reason = (
                f"{run.status}, but could be resumed: --resume"
                if run.run_id in resumable
                else run.status
            )
            items.append(
                DeletionItem(
                    FAILED, f"run {run.run_id} ({run.name})", reason, run_ids=(run.run_id,)
                )
            )
    return DeletionPlan(tuple(items), kept)


def plan_studies(
    studies: Sequence[KnownRun],
    trials: Iterable[KnownRun],
    running: Sequence[KnownRun],
    days: float,
    now_ms: int,
) -> DeletionPlan:
    """Plan the deletion of studies that ended more than `days` ago, with their trials.

    Studies with settings that `train` may use are kept: of each model, dataset and class list the
    newest FINISHED study, and the newest one with enough complete trials.

    Args:
        studies: runs of studies.
        trials: runs of their trials.
        running: all RUNNING runs.
        days: minimum age of the studies.
        now_ms: current time in milliseconds since 1970.
    """
    used, items, kept = in_use(running), [], {}
    trials_by_study: dict[str, list[str]] = {}
    for trial in trials:
        trials_by_study.setdefault(trial.tags[PARENT], []).append(trial.run_id)
    finished = [study for study in studies if study.status == "FINISHED"]
    newest = _newest_by_key(finished)
    proven = _newest_by_key(
        study for study in finished if int(study.tags.get(COMPLETE_TRIALS, "0")) >= MIN_COMPLETE
    )
    for study in studies:
        target = f"study {study.tags.get('study', study.name)} (run {study.run_id})"
        if user := used.get(study.run_id):
            kept[target] = f"in use by run {user}, which is RUNNING"
        elif study is newest.get(_study_key(study)):
            kept[target] = (
                "the newest finished study of its model and dataset: train uses its settings"
            )
        elif study is proven.get(_study_key(study)):
            kept[target] = (
                f"the newest with {MIN_COMPLETE} complete trials of its model and dataset: "
                "train may use its settings"
            )
        elif now_ms - study.ended_ms <= days * DAY_MS:
            kept[target] = f"ended less than {days:g} days ago"
        else:
            trial_ids = trials_by_study.get(study.run_id, ())
            age = format_count(round((now_ms - study.ended_ms) / DAY_MS), "day")
            reason = f"ended {age} ago, with {format_count(len(trial_ids), 'trial')}"
            run_ids = (*trial_ids, study.run_id)
            items.append(DeletionItem(STUDY, target, reason, run_ids=run_ids))
    return DeletionPlan(tuple(items), kept)


def _newest_by_key(studies: Iterable[KnownRun]) -> dict[tuple[str | None, ...], KnownRun]:
    """Return the study that ended last, for each key of `_study_key`."""
    return {_study_key(study): study for study in sorted(studies, key=lambda each: each.ended_ms)}


def _study_key(study: KnownRun) -> tuple[str | None, ...]:
    """Return what the settings of a study are for: dataset, model, variation and class list."""
    return tuple(study.tags.get(name) for name in (DATASET, "model", "variation", CLASSES_SHA256))
