"""Grid of models and datasets: the jobs of a sweep, their fingerprints and cached results."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eyevsai.config import NEVER_TUNED
from eyevsai.core.errors import UserError
from eyevsai.core.fingerprint import hash_code
from eyevsai.core.names import ModelName
from eyevsai.data.dataset import load_dataset
from eyevsai.registry.lookup import find_version
from eyevsai.registry.registration import VERSION
from eyevsai.registry.versions import Version
from eyevsai.store.run_dir import RunDir
from eyevsai.store.tags import JOB, JOB_FINGERPRINT
from eyevsai.tracking.finished_runs import reason_not_resumable
from eyevsai.tracking.search import find_tagged
from eyevsai.workflows.registry.class_lists import check_classes
from eyevsai.workflows.sweep.settings import SweepJob
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
class JobFingerprint:
    """Inputs that determine a job's result."""

    digest: str  # SHA-256 of settings, data, code and number of trials
    tuned: str  # value of `--tuned`: run id of the study that settings come from, or `never`


@dataclass(frozen=True)
class CachedResult:
    """Result of an earlier call: a version, or the id of a run to resume, or neither."""

    version: Version | None = None
    interrupted: str | None = None


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
