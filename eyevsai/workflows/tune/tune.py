"""Workflow of `tune`: run the trials of a study, each in a child run of the study's run."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from eyevsai.config import check_minutes, shared_settings
from eyevsai.core.errors import JobError
from eyevsai.core.quantities import format_count
from eyevsai.core.settings import list_settings
from eyevsai.evaluation.metric_names import VALID_ACCURACY
from eyevsai.executors.base import State, Task
from eyevsai.executors.factory import count_cpus, make_executor
from eyevsai.registry.classes import hash_classes
from eyevsai.store.run_dir import CONFIG
from eyevsai.store.tags import CLASSES_SHA256, COMPLETE_TRIALS, DATASET_DIGEST, JOB
from eyevsai.tracking.finished_runs import is_active
from eyevsai.tracking.run import Run
from eyevsai.tuning.settings import BEST, TuneSettings
from eyevsai.workflows.job_context import JobContext, job_context, log_input
from eyevsai.workflows.shutdown import ShutdownHandler, ending_with_parent
from eyevsai.workflows.tune.settings import TuneConfig, compose_tune
from eyevsai.workflows.tune.study_config import OpenStudy, open_study

if TYPE_CHECKING:
    from eyevsai.tuning.study import Study

log = logging.getLogger("eyevsai")

WORK = "eyevsai.workflows.tune.tune:run_trials"
REPORT_EVERY_S = 30.0
GRID_POINTS, GRID_COMPLETE = ("grid_points", "grid_complete")  # tags of a grid search
DEFAULT_ACCURACY = "trials/default_accuracy"  # valid accuracy of the trial with the defaults


@dataclass(frozen=True)
class Tuned:
    """Result of a study."""

    run_id: str
    study: str
    settings: dict[str, Any]  # searched settings of the best trial
    accuracy: float  # its valid accuracy
    states: dict[str, int]  # number of trials by state
    seconds: float


def tune(
    config: TuneConfig, run_id: str | None = None, tags: Mapping[str, str] = MappingProxyType({})
) -> Tuned:
    """Run the remaining trials of a study, and log the results to the study's run.

    Args:
        config: configuration of the study; an existing study of the same name is resumed.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.
        tags: additional tags of the study's run.

    Raises:
        UserError: the data, a setting or a store is unusable.
        JobError: no trial has a result.
    """
    started_at = time.monotonic()
    check_minutes(config.trials)
    with job_context(config.state_dir, run_id) as job:
        opened = open_study(config, job)
        with _start(opened, job, tags) as run:
            _log_plan(opened, run)
            report = _Report(run, opened.study)
            if config.tuning.parallel_jobs == 1:
                from eyevsai.workflows.tune.trial_runner import TrialRunner

                TrialRunner(opened, run.run_id, job.stop).run(report.refresh_if_due)
            else:
                _run_workers(config, run, report, job.stop)
            best = opened.study.require_best()
            report.refresh()
            _log_grid_end(opened.study, run)
            states, accuracy = report.states(), best.value or 0.0
            run.log_result(
                f"Best valid accuracy {accuracy:.4f} in trial {best.number} of "
                f"{sum(states.values())}{_format_defaults(opened.study)}."
            )
            log.info(
                "Best of %s: trial %d%s",
                format_count(sum(states.values()), "trial"),
                best.number,
                _format_defaults(opened.study),
            )
            settings, seconds = dict(best.user_attrs["settings"]), time.monotonic() - started_at
            return Tuned(run.run_id, opened.study.name, settings, accuracy, states, seconds)


@contextmanager
def _start(opened: OpenStudy, job: JobContext, extra_tags: Mapping[str, str]) -> Iterator[Run]:
    """Start the study's run: that of an earlier call unless it was deleted, else a new one."""
    config, study = opened.config, opened.study
    parent = study.parent
    earlier = parent if parent and is_active(opened.tracking_uri, parent) else None
    tags = {
        JOB: "tune",
        "study": study.name,
        **vars(opened.name),
        "preset": config.trials.model.preset,
        DATASET_DIGEST: opened.dataset.fingerprint,
        CLASSES_SHA256: hash_classes(opened.dataset.classes),
        **config.call.tags(),
        **extra_tags,
    }
    title = config.trials.run.run_name or f"tune {study.name}"
    settings = {**config.trials.flat(), **asdict(config.tuning)}
    declared = (*shared_settings(), *list_settings(TuneSettings))
    changed = config.call.changed_parameters(settings, declared)
    with job.start_run(
        title,
        tags,
        resumed=earlier,
        extends=True,
        changed=changed,
        interruption_hint="The same command resumes the study.",
    ) as run:
        if earlier:
            trials = format_count(len(study.started_trials()), "trial")
            log.info("Resuming study %s with %s.", study.name, trials)
        else:
            study.parent = run.run_id
            run.log_params(config.trials.parameters(opened.name.dataset) | asdict(config.tuning))
            run.log_dict(CONFIG, config.repeatable())
            run.log_dict("space.json", study.space.describe())
            log_input(run, opened.dataset)
        yield run


def _log_plan(opened: OpenStudy, run: Run) -> None:
    """Log the limits and conflicts of the search space, and the size of a grid."""
    for note in opened.notes:
        log.info("%s", note)
    grid, num_trials = opened.study.grid, opened.config.tuning.n_trials
    if grid is None:
        return
    run.set_tags({GRID_POINTS: grid.size})
    if grid.size <= num_trials:
        log.info("Grid of %s.", format_count(grid.size, "point"))
    else:
        log.warning(
            "Grid of %s, more than --n-trials %d: trials take a fixed random sample of them. "
            "Narrow the grid with --space, fix settings with options, or raise --n-trials.",
            format_count(grid.size, "point"),
            num_trials,
        )


def _log_grid_end(study: Study, run: Run) -> None:
    """Log that all points of the grid had trials, if they had; tag the run accordingly."""
    if study.grid is None:
        return
    is_complete = study.is_grid_complete()
    run.set_tags({GRID_COMPLETE: str(is_complete).lower()})
    if is_complete:
        log.info("The grid of %s is complete.", format_count(study.grid.size, "point"))


class _Report:
    """Report on a study in its run, refreshed while trials end."""

    def __init__(self, run: Run, study: Study) -> None:
        self.run, self.study = run, study
        self._num_reported, self._reported_at = -1, 0.0

    def states(self) -> dict[str, int]:
        """Return the number of started trials by state, such as `complete` or `pruned`."""
        names = [trial.state.name.lower() for trial in self.study.started_trials()]
        return {name: names.count(name) for name in sorted(set(names))}

    def refresh_if_due(self) -> None:
        """Refresh unless the last refresh is less than `REPORT_EVERY_S` ago."""
        if time.monotonic() - self._reported_at >= REPORT_EVERY_S:
            self.refresh()

    def refresh(self) -> None:
        """Log metrics, the best settings, a table of trials and plots, if more trials ended."""
        from eyevsai.tuning.visualization import (
            describe_best,
            plot_study,
            render_page,
            trials_table,
        )

        num_ended = sum(trial.state.is_finished() for trial in self.study.counted_trials())
        self._reported_at = time.monotonic()
        if num_ended == self._num_reported:
            return
        self._num_reported = num_ended
        states = {f"trials/{name}": count for name, count in self.states().items()}
        best, defaults = self.study.best(), self.study.defaults()
        trials = {VALID_ACCURACY: best, DEFAULT_ACCURACY: defaults}
        values = {
            name: trial.value for name, trial in trials.items() if trial and trial.value is not None
        }
        self.run.log_metrics({**states, **values}, step=num_ended)
        self.run.log_table("trials.json", *trials_table(self.study.counted_trials()))
        if best is not None:
            description = describe_best(self.study, best)
            self.run.log_dict(BEST, description)
            self.run.set_tags({COMPLETE_TRIALS: description["complete"]})
            for name, figure in plot_study(self.study.study).items():
                self.run.log_figure(f"plots/{name}.png", figure, tight=True)
            self.run.log_text("study.html", render_page(self.study.study))


def _format_defaults(study: Study) -> str:
    """Return the result of the trial with the default settings, to append to a log line.

    Empty if there is no such trial or it has no result.
    """
    defaults = study.defaults()
    if defaults is None or defaults.value is None:
        return ""
    return f"; the defaults (trial {defaults.number}): {defaults.value:.4f}"


def _run_workers(config: TuneConfig, run: Run, report: _Report, stop: ShutdownHandler) -> None:
    """Run trials in parallel worker processes until the study is complete.

    Workers end when `stop` is requested.

    Args:
        config: configuration of the study.
        run: run of the study.
        report: report to refresh while workers run.
        stop: cancellation token of the job.

    Raises:
        JobError: all workers failed.
    """
    num_workers = config.tuning.parallel_jobs
    threads = count_cpus(config.executor, num_workers)
    task = {
        "settings": {**config.explicit, **_non_empty(config.tuning)},
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
        for number in range(num_workers)
    ]
    executor = make_executor(config.executor, num_workers, quiet=False)
    workers = executor.run(
        tasks, run.folder.path / "workers", lambda _: report.refresh_if_due(), stop
    )
    if all(status.state is State.FAILED for status in workers.values()):
        raise JobError(
            f"All workers exited early ({next(iter(workers.values())).reason}); see their output "
            "above. Run tune again to resume the study."
        )


def _non_empty(settings: TuneSettings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if value is not None}


def run_trials(arguments: Mapping[str, Any]) -> None:
    """Run trials of a study in a worker process, one of several.

    Args:
        arguments: `settings`, explicit settings of `tune` by name; `parent`, id of the study's run;
            `threads`, number of threads of torch; and `worker`, index of this process.
    """
    import torch

    torch.set_num_threads(arguments["threads"])
    from eyevsai.workflows.tune.trial_runner import TrialRunner

    config = compose_tune(arguments["settings"])
    with job_context(config.state_dir) as job, ending_with_parent():
        opened = open_study(config, job)
        TrialRunner(opened, arguments["parent"], job.stop, arguments["worker"]).run()
