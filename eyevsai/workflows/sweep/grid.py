"""Grid of models and datasets: the jobs of a sweep, their fingerprints and cached results."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyevsai.config import NEVER_TUNED, TrainConfig, compose_data, compose_train, train_settings
from eyevsai.core.errors import UserError
from eyevsai.core.fingerprint import hash_code
from eyevsai.core.names import ModelName, choose_listed
from eyevsai.core.settings import as_flag
from eyevsai.data.catalog import EMBEDDED, UNIONS, list_datasets
from eyevsai.data.dataset import load_dataset
from eyevsai.executors.settings import TrainAllSettings
from eyevsai.models.factory import FAMILIES, select_models
from eyevsai.registry.registration import VERSION
from eyevsai.registry.versions import Version, find_version
from eyevsai.store.run_dir import RunDir
from eyevsai.store.tags import JOB, JOB_FINGERPRINT
from eyevsai.tracking.finished_runs import reason_not_resumable
from eyevsai.tracking.search import find_tagged
from eyevsai.workflows.registry.class_lists import check_classes
from eyevsai.workflows.train.tuned_settings import use_tuned

log = logging.getLogger("eyevsai")

IGNORED_IN_FINGERPRINT = (  # settings that do not affect the result
    "data_dir",
    "cache_dir",
    "state_dir",
    "run_name",
    "checkpoint_every_s",
    "class_change",
)


@dataclass(frozen=True)
class SweepJob:
    """Job of a sweep: the training of one model on one dataset."""

    name: ModelName
    explicit: Mapping[str, Any]  # explicit settings of `train` by name
    config: TrainConfig  # composed from them


@dataclass(frozen=True)
class JobFingerprint:
    """Inputs that determine a job's result."""

    digest: str  # SHA-256 of settings, data, code and number of trials
    tuned: str  # value of `--tuned`: run id of the study that settings come from, or `never`


@dataclass(frozen=True)
class CachedResult:
    """Result of an earlier call: a version, or the id of a run to resume, or neither."""

    version: Version | None = None
    interrupted: str | None = None


def compose_jobs(settings: TrainAllSettings, explicit: Mapping[str, Any]) -> list[SweepJob]:
    """Return the jobs of a grid, all models for each dataset.

    Args:
        settings: models and datasets of the grid; None means all.
        explicit: settings of `train` by name. Each job takes those that its model has.

    Raises:
        UserError: a model, variation or dataset is unknown (the message names the nearest one), a
            setting applies to none of the models, or two jobs have the same registered name.
    """
    models = select_models(",".join(FAMILIES) if settings.models is None else settings.models)
    datasets = _select_datasets(settings.datasets, explicit)
    if explicit.get("dataset_name") and len(datasets) > 1:
        raise UserError(
            f"--dataset-name {explicit['dataset_name']} cannot name {len(datasets)} datasets: "
            f"{', '.join(datasets)}. Choose one of them with --datasets."
        )
    allowed = {pair: {setting.name for setting in train_settings(*pair)} for pair in models}
    for name in explicit:
        if not any(name in names for names in allowed.values()):
            pairs = ", ".join(f"{model}/{variation}" for model, variation in models)
            raise UserError(f"{as_flag(name)} is not a setting of any chosen model: {pairs}.")
    jobs = []
    for dataset in datasets:
        for pair in models:
            values = {name: value for name, value in explicit.items() if name in allowed[pair]}
            values |= {"model": pair[0], "variation": pair[1], "dataset": dataset}
            model_name = ModelName(explicit.get("dataset_name") or dataset, *pair)
            jobs.append(SweepJob(model_name, values, compose_train(values)))
    _check_distinct_names(jobs)
    return jobs


def fingerprint_jobs(
    jobs: Iterable[SweepJob], trials: int, tracking_uri: str
) -> dict[ModelName, JobFingerprint]:
    """Return the fingerprint of each job, by its model.

    Args:
        jobs: jobs of the sweep. Each dataset is loaded once.
        trials: trials of the study before each training; 0 for none, in which case the settings of
            an earlier study are applied as `--tuned` requests.
        tracking_uri: store with the registered models and the studies.

    Raises:
        UserError: a dataset is unusable, its classes differ from those of its registered models, or
            the study that `--tuned` names does not exist.
    """
    code, datasets, fingerprints = (
        hash_code(),
        dict[str, tuple[str, tuple[str, ...]]](),
        dict[ModelName, JobFingerprint](),
    )
    for job in jobs:
        name, config, study = job.name.dataset, job.config, None
        if name not in datasets:
            log.info("Reading %s", name)
            dataset = load_dataset(config.data)
            datasets[name] = dataset.fingerprint, tuple(dataset.classes)
        fingerprint, classes = datasets[name]
        check_classes(tracking_uri, job.name, classes, consented=config.data.class_change)
        if not trials:
            config, study = use_tuned(config, job.name, tracking_uri, classes)
        flat = {
            name: value
            for name, value in config.flat().items()
            if name not in IGNORED_IN_FINGERPRINT
        }
        inputs = {**flat, "trials": trials, "fingerprint": fingerprint, "code": code}
        digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        fingerprints[job.name] = JobFingerprint(digest, study or NEVER_TUNED)
    return fingerprints


def find_cached(tracking_uri: str, digest: str, state_dir: Path) -> CachedResult:
    """Return the cached result of a job.

    Args:
        tracking_uri: store with the runs and versions.
        digest: fingerprint of the job.
        state_dir: folder of run state, with the checkpoints on this machine.

    Returns:
        The version of a finished run with this fingerprint, if one exists. Otherwise a run with
        checkpoints that can be resumed, or neither.
    """
    interrupted = None
    for run in find_tagged(tracking_uri, {JOB_FINGERPRINT: digest, JOB: "train"}):
        folder = RunDir(state_dir, run.run_id)
        if run.status == "FINISHED" and VERSION in run.tags:
            try:
                return CachedResult(find_version(tracking_uri, run.tags[VERSION]))
            except UserError:  # the version was deleted
                continue
        if interrupted is None and any(folder.checkpoints.glob("*.json")):
            interrupted = None if reason_not_resumable(tracking_uri, folder) else run.run_id
    return CachedResult(None, interrupted)


def _select_datasets(listed: str | None, explicit: Mapping[str, Any]) -> list[str]:
    """Return the datasets in a comma-separated list, or by default all folders of the data dir.

    The default excludes the embedded dataset and the unions; without folders, it is the embedded
    dataset.
    """
    names = list_datasets(Path(compose_data(explicit).data_dir).expanduser())
    if listed is not None:
        return choose_listed("dataset", listed, names)
    return [name for name in names if name != EMBEDDED and name not in UNIONS] or [EMBEDDED]


def _check_distinct_names(jobs: Iterable[SweepJob]) -> None:
    """Raise UserError if the models of two datasets have the same registered name."""
    by_name: dict[str, ModelName] = {}
    for job in jobs:
        other = by_name.setdefault(job.name.registered, job.name)
        if other != job.name:
            raise UserError(
                f"The models of the datasets {other.dataset!r} and {job.name.dataset!r} would "
                f"share the name {job.name.registered}. Rename one of the two folders."
            )
