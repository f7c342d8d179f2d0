"""Models x variations x datasets, as the training runs that are wanted, and which of them were done
before.
"""

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

IGNORED_IN_FINGERPRINT = (  # settings that change no result
    "data_dir",
    "cache_dir",
    "state_dir",
    "run_name",
    "checkpoint_every_s",
    "class_change",
)


@dataclass(frozen=True)
class SweepJob:
    """One model on one dataset: the settings of its training that were given, and what they amount
    to.
    """

    name: ModelName
    given: Mapping[str, Any]
    config: TrainConfig


@dataclass(frozen=True)
class JobFingerprint:
    """A checksum of settings, data and code, and the study that settings are taken from without one
    of its own.
    """

    digest: str
    tuned: str


@dataclass(frozen=True)
class CachedResult:
    """The result of an earlier call: a version, or a run that can be resumed."""

    version: Version | None = None
    interrupted: str | None = None


def compose_jobs(settings: TrainAllSettings, given: Mapping[str, Any]) -> list[SweepJob]:
    """Return the jobs of a grid; each takes those of the `given` settings of train that its
    model has.

    Raises:
        UserError: an unknown model, variation or dataset, naming the nearest, or a setting that
            none of the models has.
    """
    models = select_models(",".join(FAMILIES) if settings.models is None else settings.models)
    datasets = _find_datasets(settings.datasets, given)
    if given.get("dataset_name") and len(datasets) > 1:
        raise UserError(
            f"--dataset-name {given['dataset_name']} cannot name {len(datasets)} datasets: "
            f"{', '.join(datasets)}. Choose one of them with --datasets."
        )
    own = {pair: {setting.name for setting in train_settings(*pair)} for pair in models}
    for name in given:
        if not any(name in known for known in own.values()):
            chosen = ", ".join(f"{model}/{variation}" for model, variation in models)
            raise UserError(f"{as_flag(name)} is a setting of none of the chosen models: {chosen}.")
    jobs = []
    for dataset in datasets:
        for model, variation in models:
            kept = {name: value for name, value in given.items() if name in own[model, variation]}
            kept |= {"model": model, "variation": variation, "dataset": dataset}
            called = ModelName(given.get("dataset_name") or dataset, model, variation)
            jobs.append(SweepJob(called, kept, compose_train(kept)))
    _check_distinct_names(jobs)
    return jobs


def fingerprint_jobs(
    jobs: Iterable[SweepJob], trials: int, tracking_uri: str
) -> dict[ModelName, JobFingerprint]:
    """Return what the result of each job depends on; `trials` of a study come first, or none.

    Raises:
        UserError: the images of a dataset cannot be learned from, its classes are not those of its
            registered models, or there is no such study.
    """
    code, read, fingerprints = (
        hash_code(),
        dict[str, tuple[str, tuple[str, ...]]](),
        dict[ModelName, JobFingerprint](),
    )
    for job in jobs:
        dataset, config, study = job.name.dataset, job.config, None
        if dataset not in read:
            log.info("Reading %s", dataset)
            found = load_dataset(config.data)
            read[dataset] = found.fingerprint, tuple(found.classes)
        fingerprint, classes = read[dataset]
        check_classes(tracking_uri, job.name, classes, consented=config.data.class_change)
        if not trials:
            config, study = use_tuned(config, job.name, tracking_uri, classes)
        flat = {
            name: value
            for name, value in config.flat().items()
            if name not in IGNORED_IN_FINGERPRINT
        }
        about = {**flat, "trials": trials, "fingerprint": fingerprint, "code": code}
        checksum = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        fingerprints[job.name] = JobFingerprint(checksum, study or NEVER_TUNED)
    return fingerprints


def find_cached(tracking_uri: str, digest: str, state_dir: Path) -> CachedResult:
    """Return what the store and this machine have of a job with this fingerprint."""
    interrupted = None
    for run in find_tagged(tracking_uri, {JOB_FINGERPRINT: digest, JOB: "train"}):
        folder = RunDir(state_dir, run.run_id)
        if run.status == "FINISHED" and VERSION in run.tags:
            try:
                return CachedResult(find_version(tracking_uri, run.tags[VERSION]))
            except UserError:  # it was deleted
                continue
        if interrupted is None and any(folder.checkpoints.glob("*.json")):
            interrupted = None if reason_not_resumable(tracking_uri, folder) else run.run_id
    return CachedResult(None, interrupted)


def _find_datasets(wanted: str | None, given: Mapping[str, Any]) -> list[str]:
    known = list_datasets(Path(compose_data(given).data_dir).expanduser())
    if wanted is not None:
        return choose_listed("dataset", wanted, known)
    return [name for name in known if name != EMBEDDED and name not in UNIONS] or [EMBEDDED]


def _check_distinct_names(jobs: Iterable[SweepJob]) -> None:
    by_name: dict[str, ModelName] = {}
    for job in jobs:
        other = by_name.setdefault(job.name.registered, job.name)
        if other != job.name:
            raise UserError(
                f"The models of the datasets {other.dataset!r} and {job.name.dataset!r} would "
                f"have one name, {job.name.registered}. Rename one of the two folders."
            )
