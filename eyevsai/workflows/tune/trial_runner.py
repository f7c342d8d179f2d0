"""Sequential execution of a study's trials in one process."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eyevsai.config import TrainConfig
from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError, TerminationRequested, TrialPruned, UserError
from eyevsai.core.progress import EtaEstimator
from eyevsai.evaluation.metric_names import EPOCH_ACCURACY, VALID_ACCURACY
from eyevsai.store.run_dir import RunDir
from eyevsai.store.tags import JOB, PARENT
from eyevsai.store.uris import mask_password
from eyevsai.tracking.liveness import describe_process, is_stale
from eyevsai.tracking.run import Run, SyncError
from eyevsai.tracking.run_lifecycle import start_run
from eyevsai.tracking.search import find_run
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.pace import Pace
from eyevsai.tuning.attributes import DEFAULTS, EPOCHS, MINUTES, RUN_ID, SETTINGS
from eyevsai.tuning.settings import TIMED_REPORTS
from eyevsai.tuning.study import Trial
from eyevsai.workflows.job_context import log_input
from eyevsai.workflows.shutdown import ShutdownHandler
from eyevsai.workflows.train.setup import build_learner_and_data, limit_to_data
from eyevsai.workflows.train.time_plan import plan_time
from eyevsai.workflows.trained_model import CONFIG
from eyevsai.workflows.tune.study_config import OpenStudy, trial_config

log = logging.getLogger("eyevsai")

MAX_SKIPPED = 1000  # consecutive trials with conflicting settings before the study fails
WAIT_S = 1.0  # interval of checks for stale trials of other processes, which are run again


class _ConflictError(UserError):
    """Settings of a trial that conflict, so that it is skipped."""


class TrialCancellation(CancellationToken):
    """Cancellation token of a trial: requested with that of its job, or after a timeout.

    The timeout starts when the token is created.
    """

    def __init__(self, job: CancellationToken, timeout_s: float | None) -> None:
        self.job = job
        self.timeout_s = timeout_s
        self.ends_at = time.monotonic() + timeout_s if timeout_s is not None else float("inf")

    @property
    def requested(self) -> BaseException | None:  # type: ignore[override]
        """Exception to raise: that of the job, else a JobError after the timeout, else None."""
        if self.job.requested is None and time.monotonic() > self.ends_at:
            return JobError(f"The trial took longer than --trial-timeout {self.timeout_s:g}.")
        return self.job.requested

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Shield the whole job inside the block, not only the trial."""
        with self.job.shielded():
            yield


class TrialRunner:
    """Loop over the trials of a study, in this process.

    Args:
        opened: study with its configuration and dataset.
        parent: id of the study's run, the parent of the trials' runs.
        stop: cancellation token of the job.
        worker: index of this process among the workers of the study.
    """

    def __init__(
        self, opened: OpenStudy, parent: str, stop: ShutdownHandler, worker: int = 0
    ) -> None:
        self.opened, self.parent, self.stop, self.worker = opened, parent, stop, worker
        self.config, self.study, self.dataset = opened.config, opened.study, opened.dataset
        self.process = json.dumps(describe_process())
        self.started_at = time.monotonic()
        self.eta = EtaEstimator()
        self.num_images = len(self.dataset.labels_of("train"))
        self.num_skipped = 0  # consecutive trials
        # also if the study was started in another experiment than that of new runs
        self.experiment_id = find_run(opened.tracking_uri, parent).experiment_id

    def run(self, on_trial_end: Callable[[], None] = lambda: None) -> None:
        """Run trials until the study is complete, its timeout has passed or its target is reached.

        Repeats the trials of processes that died, and waits for running trials of other processes.
        Calls `on_trial_end` after each trial of this process.

        Raises:
            KeyboardInterrupt: SIGINT; the interrupted trial is stored.
            TerminationRequested: SIGTERM; the interrupted trial is stored.
            JobError: the settings of `MAX_SKIPPED` consecutive trials conflict.
        """
        while not self._should_stop():
            self.study.reap_stale_trials(self._is_stale, self._find_result)
            trial = self.study.ask(self.config.trials.run.seed, self.worker, self.process)
            if trial is not None:
                self._run(trial)
                on_trial_end()
            elif self.study.is_done():
                return
            else:
                time.sleep(WAIT_S)

    def _should_stop(self) -> bool:
        """Return True if a trial reached the target value, or the study's timeout has passed."""
        tuning, best = self.config.tuning, self.study.best()
        if (
            tuning.target_value is not None
            and best is not None
            and (best.value or 0.0) >= tuning.target_value
        ):
            return True
        return tuning.timeout is not None and time.monotonic() - self.started_at >= tuning.timeout

    def _is_stale(self, process: str, run_id: str) -> bool:
        return is_stale(process, RunDir(self.config.state_dir, run_id or "none"))

    def _find_result(self, run_id: str) -> float | None:
        """Return the valid accuracy of a trial's run; None if it is missing or not finished."""
        if not run_id:
            return None
        try:
            run = find_run(self.opened.tracking_uri, run_id)
        except UserError:
            return None
        return run.metrics.get(VALID_ACCURACY) if run.status == "FINISHED" else None

    def _run(self, trial: Trial) -> None:
        """Run one trial and store its outcome in the study; raise again what a signal raised."""
        outcome: float | BaseException
        try:
            outcome = self._evaluate(trial, self._compose(trial))
        except (Exception, KeyboardInterrupt, TerminationRequested) as error:
            outcome = error
        with self.stop.shielded():
            self._store_outcome(trial, outcome)
        self.num_skipped = self.num_skipped + 1 if isinstance(outcome, _ConflictError) else 0
        if self.num_skipped == MAX_SKIPPED:
            raise JobError(
                f"{MAX_SKIPPED} consecutive trials were skipped, the last one because its settings "
                f"conflict: {outcome} Narrow the space with --space."
            )
        if isinstance(outcome, KeyboardInterrupt | TerminationRequested):
            raise outcome

    def _compose(self, trial: Trial) -> TrainConfig:
        """Return the configuration of a trial, limited to the train split.

        Raises:
            _ConflictError: the settings conflict with each other or with the data.
        """
        values = self.study.space.suggest(trial, self.config.trials.model.settings)
        trial.set_user_attr(SETTINGS, values)
        try:
            return limit_to_data(trial_config(self.config, values), self.num_images)
        except UserError as error:
            raise _ConflictError(str(error)) from error

    def _store_outcome(self, trial: Trial, outcome: float | BaseException) -> None:
        if isinstance(outcome, KeyboardInterrupt | TerminationRequested):
            # the trial's run may have finished before the signal
            accuracy = self._find_result(trial.user_attrs.get(RUN_ID, ""))
            outcome = outcome if accuracy is None else accuracy
        if isinstance(outcome, _ConflictError):
            self.study.skip(trial, str(outcome))
            log.debug("Trial %d is skipped: %s", trial.number, outcome)
            return
        self.study.tell(trial, outcome)
        if isinstance(outcome, float | Exception):
            self._log_outcome(trial, outcome)

    def _log_outcome(self, trial: Trial, outcome: float | Exception) -> None:
        """Log a trial's outcome, the best trial, and the number and duration of those remaining."""
        self.eta.step()
        best, num_remaining = self.study.best(), self.study.num_remaining()
        best_so_far = f"best {best.value:.4f} in trial {best.number}; " if best else ""
        remaining = (
            f"{best_so_far}{num_remaining} of {len(self.study.started_trials()) + num_remaining} "
            f"remaining{self.eta.remaining(num_remaining / self.config.tuning.parallel_jobs)}"
        )
        if isinstance(outcome, float):
            log.info("Trial %d: valid accuracy %.4f; %s", trial.number, outcome, remaining)
        elif isinstance(outcome, TrialPruned):
            log.info("Trial %d: %s; %s", trial.number, outcome, remaining)
        else:
            reason = mask_password(str(outcome).strip()) or type(outcome).__name__
            is_unexpected = not isinstance(outcome, UserError)
            log.error(
                "Trial %d failed (%s): %s",
                trial.number,
                remaining,
                reason,
                exc_info=outcome if is_unexpected else None,
            )

    def _evaluate(self, trial: Trial, config: TrainConfig) -> float:
        """Train a trial in a run of its own; return the highest valid accuracy of its epochs."""
        config, timing = plan_time(
            config, self.dataset, time.monotonic(), self.opened.tracking_uri, is_new=True
        )
        trial.set_user_attr(EPOCHS, getattr(config.model.settings, "epochs", None))
        trial.set_user_attr(MINUTES, getattr(config.model.settings, "minutes", None))
        tags = {
            JOB: "trial",
            PARENT: self.parent,
            "study": self.study.name,
            "trial": trial.number,
            **vars(self.opened.name),
        }
        title = f"trial {trial.number} {self.study.name}"
        accuracies: list[float] = []
        stop = TrialCancellation(self.stop, self.config.tuning.trial_timeout)
        try:
            with start_run(
                self.opened.tracking_uri,
                title,
                tags,
                self.config.state_dir,
                experiment_id=self.experiment_id,
                stop=self.stop,
                interruption_hint="",  # the study logs one
            ) as run:
                trial.set_user_attr(RUN_ID, run.run_id)
                run.log_params(config.parameters(self.opened.name.dataset))
                run.log_dict(CONFIG, config.flat())
                log_input(run, self.dataset)
                learner, data = build_learner_and_data(config, self.dataset)
                learner.fit(
                    data.train,
                    data.valid,
                    _report_epochs(run, trial, accuracies, timing.pace),
                    Checkpoints(stop=stop),
                    timing.pace,
                )
                timing.log(run, len(accuracies))
                run.log_metrics({VALID_ACCURACY: max(accuracies)})
        except SyncError as error:
            log.warning("%s", error)  # not an error of the trial, which has a result
        return max(accuracies)


def _report_epochs(
    run: Run, trial: Trial, accuracies: list[float], pace: Pace | None
) -> Callable[[int, dict[str, float]], None]:
    """Return the `on_epoch` callback of a trial, which raises TrialPruned if the trial is pruned.

    The trial with the default settings is never pruned: all other trials are compared with it.

    Args:
        run: run that metrics are logged to.
        trial: trial that valid accuracies are reported to.
        accuracies: list that the valid accuracy of each epoch is appended to.
        pace: pace of a trial with a time budget. Such trials are compared at equal shares of
            their time, because their epochs differ.
    """
    has_defaults = DEFAULTS in trial.user_attrs
    reported = 0

    def _on_epoch(epoch: int, metrics: dict[str, float]) -> None:
        nonlocal reported
        run.log_metrics(metrics, step=epoch)
        accuracies.append(metrics[EPOCH_ACCURACY])
        step = epoch if pace is None else int(TIMED_REPORTS * pace.end_of(epoch) / pace.num_epochs)
        if step <= reported:
            return
        reported = step
        trial.report(metrics[EPOCH_ACCURACY], step)
        if trial.should_prune() and not has_defaults:
            raise TrialPruned(f"pruned after epoch {epoch}")

    return _on_epoch
