"""train_all: a grid of models and datasets, each a run under one parent."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyevsai.config import compose, find_state_dir
from eyevsai.core.errors import JobError, UserError
from eyevsai.core.names import ModelName
from eyevsai.core.settings import split_settings
from eyevsai.executors.base import State, Status, Task
from eyevsai.executors.factory import count_cpus, make_executor
from eyevsai.executors.settings import ExecutorSettings, TrainAllSettings
from eyevsai.formats.factory import parse_formats
from eyevsai.registry.settings import CleanupSettings
from eyevsai.registry.versions import TESTED, exports_of
from eyevsai.reports.settings import ReportSettings
from eyevsai.store.tags import JOB
from eyevsai.tracking.run import Run
from eyevsai.workflows.job_context import job_context
from eyevsai.workflows.registry.cleanup import cleanup
from eyevsai.workflows.report.report import write_reports
from eyevsai.workflows.sweep.grid import (
    CachedResult,
    JobFingerprint,
    SweepJob,
    compose_jobs,
    find_cached,
    fingerprint_jobs,
)
from eyevsai.workflows.sweep.job import CALL
from eyevsai.workflows.sweep.job_dashboard import Dashboard

log = logging.getLogger("eyevsai")

JOBS = "jobs"  # the part of the run folder that local jobs have


@dataclass(frozen=True)
class TrainAllConfig:
    """All that `train_all` needs to know. `given` are the settings of train that were typed, for
    all models.
    """

    sweep: TrainAllSettings
    executor: ExecutorSettings
    given: Mapping[str, Any]
    jobs: Sequence[SweepJob]

    @property
    def state_dir(self) -> Path:
        """The folder of what this machine keeps of runs."""
        return find_state_dir(self.given)

    @property
    def trials(self) -> int:
        """Trials of the study before each training; 0 without tuning."""
        return self.sweep.tuning_trials if self.sweep.run_tuning else 0


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep: the status of each job, the versions that existed before, and the
    reports.
    """

    run_id: str
    jobs: Mapping[str, Status]
    cached: Mapping[str, str]
    reports: Mapping[str, Path]
    seconds: float


def compose_train_all(given: Mapping[str, Any]) -> TrainAllConfig:
    """The configuration of `given` values, by setting name.

    Raises:
        UserError: a name or a value that is not allowed, or a list that names what is not there.
    """
    _, rest = split_settings(given, TrainAllSettings, ExecutorSettings)
    settings = compose(TrainAllSettings, given)
    if settings.export is not None:
        parse_formats(settings.export)
    if settings.run_tuning and "tuned" in given:
        raise UserError("--run-tuning takes what it finds: leave --tuned out, or --run-tuning.")
    return TrainAllConfig(
        settings, compose(ExecutorSettings, given), rest, compose_jobs(settings, rest)
    )


def train_all(config: TrainAllConfig, run_id: str | None = None) -> SweepResult:
    """Run the jobs of a grid that were not done before with the same settings, data and code.

    `run_id` is the run that `mlflow run` made for this call, if one did.

    Raises:
        UserError: something a person must mend before anything is started.
        JobError: some jobs failed; the others were done all the same.
    """
    began = time.monotonic()
    with job_context(config.state_dir, run_id) as job:
        executor = make_executor(config.executor, config.sweep.parallel_jobs)
        tracking_uri = job.tracking_uri
        fingerprints = fingerprint_jobs(config.jobs, config.trials, tracking_uri)
        count = len(config.jobs)
        title, tags = (
            f"train {count} models" if count > 1 else "train 1 model",
            {JOB: "train_all"},
        )
        with job.start_run(title, tags) as run:
            run.log_params({**config.given, **vars(config.sweep), **vars(config.executor)})
            tasks, cached = _find_work(config, tracking_uri, fingerprints, run.run_id)
            with Dashboard(run, tracking_uri, cached) as dashboard:
                try:
                    jobs = executor.run(tasks, run.folder.path / JOBS, dashboard.update, job.stop)
                finally:
                    _keep_logs(run)
            if config.sweep.auto_cleanup:
                _clean_up(config)
            reports = _report(config, tracking_uri, run, done=[*cached, *_done(jobs)])
            _raise_failures(jobs, len(config.jobs))
            return SweepResult(run.run_id, jobs, cached, reports, time.monotonic() - began)


def _find_work(
    config: TrainAllConfig,
    tracking_uri: str,
    fingerprints: Mapping[ModelName, JobFingerprint],
    parent: str,
) -> tuple[list[Task], dict[str, str]]:
    """What is left to do, and the versions of models with which nothing is left to do."""
    tasks, done = [], {}
    for job in config.jobs:
        fingerprint = fingerprints[job.name]
        cached = (
            CachedResult()
            if config.sweep.force
            else find_cached(tracking_uri, fingerprint.digest, config.state_dir)
        )
        left = _describe_remaining(config.sweep, cached)
        if cached.version and not any(left.values()):
            done[job.name.registered] = cached.version.uri
            continue
        settings = {**job.given, "tuned": fingerprint.tuned}
        given = {
            "train": settings,
            "parent": parent,
            "fingerprint": fingerprint.digest,
            "trials": config.trials,
            "study": f"{job.name.registered}-{fingerprint.digest[:8]}",
            "force": config.sweep.force,
            **left,
        }
        tasks.append(
            Task(
                job.name.registered,
                CALL,
                given,
                count_cpus(config.executor, config.sweep.parallel_jobs),
                config.executor.gpus_per_job,
                config.sweep.job_timeout,
            )
        )
    return tasks, done


def _describe_remaining(settings: TrainAllSettings, cached: CachedResult) -> dict[str, Any]:
    """Whether a model is still to be evaluated, and the formats that it is still to be exported
    in.
    """
    tags = cached.version.tags if cached.version else {}
    formats = [] if settings.export is None else parse_formats(settings.export)
    missing = [name for name in formats if name not in exports_of(tags)]
    return {"evaluate": settings.evaluate and TESTED not in tags, "formats": ",".join(missing)}


def _keep_logs(run: Run) -> None:
    """What local jobs said, as artifacts."""
    from eyevsai.executors.local import LOG

    for said in sorted((run.folder.path / JOBS).glob(f"*/{LOG}")):
        run.log_text(
            f"logs/{said.parent.name}.txt", said.read_text(encoding="utf-8", errors="replace")
        )


def _clean_up(config: TrainAllConfig) -> None:
    kept = {"keep": config.sweep.keep, "yes": True, "state_dir": str(config.state_dir)}
    names = {job.name.registered for job in config.jobs}
    done = cleanup(compose(CleanupSettings, kept), lambda _: True, only=names)
    log.info(
        "Cleanup: %d older versions deleted, %.1f MB freed",
        len(done.deleted),
        done.freed_bytes / 1e6,
    )


def _report(
    config: TrainAllConfig, tracking_uri: str, run: Run, *, done: Sequence[str]
) -> Mapping[str, Path]:
    """Reports on all models of the store; there is nothing to say when no job left one."""
    if not done:
        return {}
    return write_reports(
        compose(ReportSettings, {"output": config.sweep.output}), tracking_uri, run
    ).files


def _done(jobs: Mapping[str, Status]) -> list[str]:
    return [name for name, status in jobs.items() if status.state is State.DONE]


def _raise_failures(jobs: Mapping[str, Status], total: int) -> None:
    failed = {name: status.reason for name, status in jobs.items() if status.state is State.FAILED}
    if failed:
        lines = "\n".join(f"- {name}: {reason}" for name, reason in failed.items())
        raise JobError(
            f"{len(failed)} of {total} jobs failed:\n{lines}\nThe same command, typed again, "
            "does what is missing."
        )
