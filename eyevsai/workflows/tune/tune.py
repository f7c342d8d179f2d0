"""tune: a study of trials, each a run of its own under the study's run."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from eyevsai.core.errors import JobError
from eyevsai.evaluation.metric_names import VALID_ACCURACY
from eyevsai.executors.base import State, Task
from eyevsai.executors.factory import count_cpus, make_executor
from eyevsai.registry.classes import hash_classes
from eyevsai.store.tags import CLASSES_SHA256, COMPLETE_TRIALS, DATASET_DIGEST, JOB
from eyevsai.tracking.finished_runs import is_active
from eyevsai.tracking.run import Run
from eyevsai.tuning.settings import BEST, TuneSettings
from eyevsai.workflows.job_context import JobContext, job_context, log_input
from eyevsai.workflows.shutdown import ShutdownHandler, ending_with_parent
from eyevsai.workflows.tune.study_config import OpenStudy, TuneConfig, compose_tune, open_study

if TYPE_CHECKING:
    from eyevsai.tuning.study import Study

log = logging.getLogger("eyevsai")

WORK = "eyevsai.workflows.tune.tune:run_trials"
REPORT_EVERY_S = 30.0
DEFAULT_ACCURACY = "trials/default_accuracy"  # valid accuracy of the trial with the defaults


@dataclass(frozen=True)
class Tuned:
    """What a study found."""

    run_id: str
    study: str
    settings: dict[str, Any]
    accuracy: float
    states: dict[str, int]
    seconds: float


def tune(
    config: TuneConfig, run_id: str | None = None, tags: Mapping[str, str] = MappingProxyType({})
) -> Tuned:
    """Runs the trials that a study still lacks, and logs what was found.

    `run_id` is the run that `mlflow run` made for this call, if one did; the study's run gets
    `tags` besides its own.

    Raises:
        UserError: something a person must mend, or (JobError) no trial had a result.
    """
    began = time.monotonic()
    with job_context(config.state_dir, run_id) as job:
        opened = open_study(config, job)
        with _start(opened, job, tags) as run:
            report = _Report(run, opened.study)
            if config.tuning.parallel_jobs == 1:
                from eyevsai.workflows.tune.trial_runner import TrialRunner

                TrialRunner(opened, run.run_id, job.stop).run(report.refresh_now_and_then)
            else:
                _run_workers(config, run, report, job.stop)
            best = opened.study.check_not_failed()
            report.refresh()
            states, accuracy = report.states(), best.value or 0.0
            log.info(
                "Best of %d trials: valid accuracy %.4f in trial %d%s",
                sum(states.values()),
                accuracy,
                best.number,
                _log_defaults(opened.study),
            )
            found = dict(best.user_attrs["settings"])
            return Tuned(
                run.run_id, opened.study.name, found, accuracy, states, time.monotonic() - began
            )


@contextmanager
def _start(opened: OpenStudy, job: JobContext, told: Mapping[str, str]) -> Iterator[Run]:
    """The study's run: a new one, or that of an earlier call for the same study."""
    config, study = opened.config, opened.study
    before = study.parent if study.parent and is_active(opened.tracking_uri, study.parent) else None
    tags = {
        JOB: "tune",
        "study": study.name,
        **vars(opened.name),
        "preset": config.trials.model.preset,
        DATASET_DIGEST: opened.dataset.fingerprint,
        CLASSES_SHA256: hash_classes(opened.dataset.classes),
        **told,
    }
    title = config.trials.run.run_name or f"tune {study.name}"
    with job.start_run(title, tags, resumed=before, extends=True) as run:
        if before:
            log.info(
                "Going on with study %s, which has %d trials.", study.name, len(study.started())
            )
        else:
            study.parent = run.run_id
            run.log_params({**config.trials.flat(), **asdict(config.tuning)})
            run.log_dict("space.json", study.space.describe())
            log_input(run, opened.dataset)
        yield run


class _Report:
    """What the study's run shows, filled in while trials end."""

    def __init__(self, run: Run, study: Study) -> None:
        self.run, self.study = run, study
        self._num_shown, self._shown_at = -1, 0.0

    def states(self) -> dict[str, int]:
        """How many trials ended in which way."""
        names = [trial.state.name.lower() for trial in self.study.started()]
        return {name: names.count(name) for name in sorted(set(names))}

    def refresh_now_and_then(self) -> None:
        """Refreshes when trials ended since, at most twice a minute."""
        if time.monotonic() - self._shown_at >= REPORT_EVERY_S:
            self.refresh()

    def refresh(self) -> None:
        """Logs the best settings, a table of the trials, and pictures."""
        from eyevsai.tuning.visualization import (
            describe_best,
            plot_study,
            render_page,
            trials_table,
        )

        ended = sum(trial.state.is_finished() for trial in self.study.counted_trials())
        self._shown_at = time.monotonic()
        if ended == self._num_shown:
            return
        self._num_shown = ended
        states = {f"trials/{name}": count for name, count in self.states().items()}
        best, defaults = self.study.best(), self.study.defaults()
        known = {VALID_ACCURACY: best, DEFAULT_ACCURACY: defaults}
        values = {
            name: trial.value for name, trial in known.items() if trial and trial.value is not None
        }
        self.run.log_metrics({**states, **values}, step=ended)
        self.run.log_table("trials.json", *trials_table(self.study.counted_trials()))
        if best is not None:
            described = describe_best(self.study, best)
            self.run.log_dict(BEST, described)
            self.run.set_tags({COMPLETE_TRIALS: described["complete"]})
            for name, figure in plot_study(self.study.study).items():
                self.run.log_figure(f"plots/{name}.png", figure, tight=True)
            self.run.log_text("study.html", render_page(self.study.study))


def _log_defaults(study: Study) -> str:
    """Return the result of the trial with the defaults for the line about the best one; empty if it
    has none.
    """
    defaults = study.defaults()
    if defaults is None or defaults.value is None:
        return ""
    return f"; the defaults (trial {defaults.number}): {defaults.value:.4f}"


def _run_workers(config: TuneConfig, run: Run, report: _Report, stop: ShutdownHandler) -> None:
    """Runs trials in processes until the study is done; ends them when this one is asked to end."""
    jobs, threads = (
        config.tuning.parallel_jobs,
        count_cpus(config.executor, config.tuning.parallel_jobs),
    )
    task = {
        "given": {**config.given, **_plain(config.tuning)},
        "parent": run.run_id,
        "threads": threads,
    }
    tasks = [
        Task(
            f"worker-{number}",
            WORK,
            {**task, "worker": number},
            threads,
            config.executor.gpus_per_job,
        )
        for number in range(jobs)
    ]
    executor = make_executor(config.executor, jobs, quiet=False)
    ended = executor.run(
        tasks, run.folder.path / "workers", lambda _: report.refresh_now_and_then(), stop
    )
    if all(status.state is State.FAILED for status in ended.values()):
        raise JobError(
            f"All processes of the study ended early ({next(iter(ended.values())).reason}). What "
            "they said stands above; start tune again to go on."
        )


def _plain(settings: TuneSettings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if value is not None}


def run_trials(given: Mapping[str, Any]) -> None:
    """Runs trials of a study, as one of several processes."""
    import torch

    torch.set_num_threads(given["threads"])
    from eyevsai.workflows.tune.trial_runner import TrialRunner

    config = compose_tune(given["given"])
    with job_context(config.state_dir) as job, ending_with_parent():
        opened = open_study(config, job)
        TrialRunner(opened, given["parent"], job.stop, given["worker"]).run()
