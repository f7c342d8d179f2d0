"""Workflow of `train-all`: train a grid of models and datasets, in child runs of one run."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyevsai.config import compose
from eyevsai.core.errors import JobError
from eyevsai.core.names import ModelName
from eyevsai.core.settings import list_settings
from eyevsai.executors.base import State, Status, Task
from eyevsai.executors.factory import count_cpus, make_executor
from eyevsai.executors.settings import TrainAllSettings
from eyevsai.formats.factory import parse_formats
from eyevsai.registry.settings import CleanupSettings
from eyevsai.registry.versions import TESTED, exports_of
from eyevsai.reports.settings import ReportSettings
from eyevsai.store.run_dir import CONFIG
from eyevsai.store.tags import JOB
from eyevsai.tracking.run import Run
from eyevsai.workflows.job_context import job_context
from eyevsai.workflows.registry.cleanup import cleanup
from eyevsai.workflows.report.report import write_reports
from eyevsai.workflows.sweep.grid import (
    CachedResult,
    JobFingerprint,
    find_cached,
    fingerprint_jobs,
)
from eyevsai.workflows.sweep.job import CALL
from eyevsai.workflows.sweep.job_dashboard import Dashboard
from eyevsai.workflows.sweep.settings import TrainAllConfig

log = logging.getLogger("eyevsai")

HINT = "The same command resumes: completed jobs are skipped."
JOBS = "jobs"  # subfolder of the run directory for the files of local jobs


@dataclass(frozen=True)
class SweepResult:
    """Result of a sweep."""

    run_id: str
    jobs: Mapping[str, Status]  # status of each job that was run, by name
    cached: Mapping[str, str]  # URI of the version of each job that was skipped, by name
    reports: Mapping[str, Path]  # paths of the reports by name
    seconds: float


def train_all(config: TrainAllConfig, run_id: str | None = None) -> SweepResult:
    """Run the jobs of a grid, except those with a cached result.

    A result is cached if an earlier call trained the same model with the same settings, data and
    code. Deletes older versions if configured, and writes reports on all models of the store.

    Args:
        config: configuration of the sweep.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.

    Raises:
        UserError: a dataset, a setting or the store is unusable; no job was started.
        JobError: at least one job failed; the others were run.
    """
    started_at = time.monotonic()
    with job_context(config.state_dir, run_id) as job:
        executor = make_executor(config.executor, config.sweep.parallel_jobs)
        tracking_uri = job.tracking_uri
        fingerprints = fingerprint_jobs(config.jobs, config.trials, tracking_uri)
        count = len(config.jobs)
        title, tags = (
            f"train {count} models" if count > 1 else "train 1 model",
            {JOB: "train_all", **_dataset_tags(config), **config.call.tags()},
        )
        changed = config.call.changed_parameters(
            vars(config.sweep), list_settings(TrainAllSettings)
        )
        with job.start_run(title, tags, changed=changed, interruption_hint=HINT) as run:
            settings = {**config.explicit, **vars(config.sweep), **vars(config.executor)}
            run.log_params(settings)
            run.log_dict(CONFIG, settings)
            tasks, cached = _plan_tasks(config, tracking_uri, fingerprints, run.run_id)
            with Dashboard(run, tracking_uri, cached) as dashboard:
                try:
                    jobs = executor.run(tasks, run.folder.path / JOBS, dashboard.update, job.stop)
                finally:
                    _log_job_output(run)
            if config.sweep.auto_cleanup:
                _clean_up(config)
            has_models = bool(cached) or any(each.state is State.DONE for each in jobs.values())
            reports = _write_reports(config, tracking_uri, run) if has_models else {}
            _raise_failures(jobs, len(config.jobs))
            return SweepResult(run.run_id, jobs, cached, reports, time.monotonic() - started_at)


def _dataset_tags(config: TrainAllConfig) -> dict[str, str]:
    """Return the tag with the dataset of a sweep, which determines the experiment of its run.

    Empty for several datasets: that run is in the experiment Default, and the runs of the jobs are
    in those of their datasets.
    """
    datasets = {job.name.dataset for job in config.jobs}
    return {"dataset": datasets.pop()} if len(datasets) == 1 else {}


def _plan_tasks(
    config: TrainAllConfig,
    tracking_uri: str,
    fingerprints: Mapping[ModelName, JobFingerprint],
    parent: str,
) -> tuple[list[Task], dict[str, str]]:
    """Return a task for each job that needs one, and the version URIs of the others by name.

    Args:
        config: configuration of the sweep.
        tracking_uri: store with the cached results.
        fingerprints: fingerprint of each job.
        parent: id of the sweep's run.
    """
    tasks, version_uris = [], {}
    for job in config.jobs:
        fingerprint = fingerprints[job.name]
        cached = (
            CachedResult()
            if config.sweep.force
            else find_cached(tracking_uri, fingerprint.digest, config.state_dir)
        )
        remaining = _describe_remaining(config.sweep, cached)
        if cached.version and not any(remaining.values()):
            version_uris[job.name.registered] = cached.version.uri
            continue
        arguments = {
            "train": {**job.explicit, "tuned": fingerprint.tuned},
            "parent": parent,
            "fingerprint": fingerprint.digest,
            "trials": config.trials,
            "study": f"{job.name.registered}-{fingerprint.digest[:8]}",
            "force": config.sweep.force,
            **remaining,
        }
        tasks.append(
            Task(
                job.name.registered,
                CALL,
                arguments,
                count_cpus(config.executor, config.sweep.parallel_jobs),
                config.executor.gpus_per_job,
                config.sweep.job_timeout,
            )
        )
    return tasks, version_uris


def _describe_remaining(settings: TrainAllSettings, cached: CachedResult) -> dict[str, Any]:
    """Return the arguments `evaluate` and `formats` of a job, for the steps that are missing."""
    tags = cached.version.tags if cached.version else {}
    formats = [] if settings.export is None else parse_formats(settings.export)
    missing = [name for name in formats if name not in exports_of(tags)]
    return {"evaluate": settings.evaluate and TESTED not in tags, "formats": ",".join(missing)}


def _log_job_output(run: Run) -> None:
    """Log the output of local jobs as artifacts `logs/JOB.txt`."""
    from eyevsai.executors.local import LOG

    for path in sorted((run.folder.path / JOBS).glob(f"*/{LOG}")):
        text = path.read_text(encoding="utf-8", errors="replace")
        run.log_text(f"logs/{path.parent.name}.txt", text)


def _clean_up(config: TrainAllConfig) -> None:
    """Delete older versions of the sweep's models without asking for confirmation."""
    values = {"keep": config.sweep.keep, "yes": True, "state_dir": str(config.state_dir)}
    names = {job.name.registered for job in config.jobs}
    result = cleanup(compose(CleanupSettings, values), lambda _: True, only=names)
    log.info(
        "Cleanup: %d older versions deleted, %.1f MB freed",
        len(result.deleted),
        result.freed_bytes / 1e6,
    )


def _write_reports(config: TrainAllConfig, tracking_uri: str, run: Run) -> Mapping[str, Path]:
    """Write the reports on all models of the store; return their paths by name."""
    return write_reports(
        compose(ReportSettings, {"output": config.sweep.output}), tracking_uri, run
    ).files


def _raise_failures(jobs: Mapping[str, Status], total: int) -> None:
    """Raise a JobError with the reasons of all failed jobs, if there are any."""
    failed = {name: status.reason for name, status in jobs.items() if status.state is State.FAILED}
    if failed:
        lines = "\n".join(f"- {name}: {reason}" for name, reason in failed.items())
        raise JobError(
            f"{len(failed)} of {total} jobs failed:\n{lines}\nRun the same command again: it "
            "skips the finished jobs."
        )
