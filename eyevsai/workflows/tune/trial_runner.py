"""Trials of a study, one after another, in one process."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError, TerminationRequested, TrialPruned, UserError
from eyevsai.core.progress import EtaEstimator
from eyevsai.evaluation.metric_names import EPOCH_ACCURACY, VALID_ACCURACY
from eyevsai.store.run_dir import RunDir
from eyevsai.store.tags import JOB, PARENT
from eyevsai.tracking.liveness import describe_process, is_stale
from eyevsai.tracking.run import Run, SyncError
from eyevsai.tracking.run_lifecycle import start_run
from eyevsai.tracking.search import find_run
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.tuning.study import DEFAULTS, EPOCHS, RUN_ID, SETTINGS, Trial
from eyevsai.workflows.job_context import log_input
from eyevsai.workflows.shutdown import ShutdownHandler
from eyevsai.workflows.train.setup import build_learner_and_data
from eyevsai.workflows.trained_model import CONFIG
from eyevsai.workflows.tune.study_config import OpenStudy, trial_config

log = logging.getLogger("eyevsai")

WAIT_S = 1.0  # for trials of other processes, which may die and have to be begun again


class TrialCancellation(CancellationToken):
    """A trial ends when its job is asked to end, or when its own time is up."""

    def __init__(self, job: CancellationToken, seconds: float | None) -> None:
        self.job = job
        self.seconds = seconds
        self.ends_at = time.monotonic() + seconds if seconds is not None else float("inf")

    @property
    def requested(self) -> BaseException | None:  # type: ignore[override]
        """The request of the job, or an error when the time is up."""
        if self.job.requested is None and time.monotonic() > self.ends_at:
            return JobError(f"The trial took longer than --trial-timeout {self.seconds:g}.")
        return self.job.requested

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Shield the whole job."""
        with self.job.shielded():
            yield


class TrialRunner:
    """Runs trials of a study until it has all of them."""

    def __init__(
        self, opened: OpenStudy, parent: str, stop: ShutdownHandler, worker: int = 0
    ) -> None:
        self.opened, self.parent, self.stop, self.worker = opened, parent, stop, worker
        self.config, self.study, self.dataset = opened.config, opened.study, opened.dataset
        self.process = json.dumps(describe_process())
        self.began_at = time.monotonic()
        self.pace = EtaEstimator()

    def run(self, after_each: Callable[[], None] = lambda: None) -> None:
        """Runs trials until there are enough, time is up, or one is good enough."""
        while not self._is_enough():
            self.study.reap_stale_trials(self._is_stale, self._result)
            trial = self.study.ask(self.config.trials.run.seed, self.worker, self.process)
            if trial is not None:
                self._run(trial)
                after_each()
            elif self.study.is_done():
                return
            else:
                time.sleep(WAIT_S)

    def _is_enough(self) -> bool:
        tuning, best = self.config.tuning, self.study.best()
        if (
            tuning.target_value is not None
            and best is not None
            and (best.value or 0.0) >= tuning.target_value
        ):
            return True
        return tuning.timeout is not None and time.monotonic() - self.began_at >= tuning.timeout

    def _is_stale(self, process: str, run_id: str) -> bool:
        return is_stale(process, RunDir(self.config.state_dir, run_id or "none"))

    def _result(self, run_id: str) -> float | None:
        """What a trial's run found, if it was finished."""
        if not run_id:
            return None
        try:
            run = find_run(self.opened.tracking_uri, run_id)
        except UserError:
            return None
        return run.metrics.get(VALID_ACCURACY) if run.status == "FINISHED" else None

    def _run(self, trial: Trial) -> None:
        """Runs one trial and tells the study how it ended; what a signal ended is raised again."""
        outcome: float | BaseException
        try:
            outcome = self._evaluate(trial)
        except (Exception, KeyboardInterrupt, TerminationRequested) as error:
            outcome = error
        with self.stop.shielded():
            self._store_outcome(trial, outcome)
        if isinstance(outcome, KeyboardInterrupt | TerminationRequested):
            raise outcome

    def _store_outcome(self, trial: Trial, outcome: float | BaseException) -> None:
        if isinstance(outcome, KeyboardInterrupt | TerminationRequested):
            # its run may have ended before the signal came
            found = self._result(trial.user_attrs.get(RUN_ID, ""))
            outcome = outcome if found is None else found
        self.study.tell(trial, outcome)
        if isinstance(outcome, Exception) and not isinstance(outcome, UserError | TrialPruned):
            log.error("Trial %d failed", trial.number, exc_info=outcome)
        if isinstance(outcome, float | Exception):
            self._log_outcome(trial, outcome)

    def _log_outcome(self, trial: Trial, outcome: float | Exception) -> None:
        """How a trial ended, which is the best so far, and how long the study may still take."""
        self.pace.step()
        came = (
            f"valid accuracy {outcome:.4f}"
            if isinstance(outcome, float)
            else str(outcome) or "failed"
        )
        best, left = self.study.best(), self.study.num_remaining()
        shown = f" (best {best.value:.4f} in trial {best.number})" if best else ""
        log.info(
            "Trial %d: %s%s; %d of %d to go%s",
            trial.number,
            came,
            shown,
            left,
            self.config.tuning.n_trials,
            self.pace.remaining(left / self.config.tuning.parallel_jobs),
        )

    def _evaluate(self, trial: Trial) -> float:
        """The highest valid accuracy of the epochs of one trial."""
        values = self.study.space.suggest(trial, self.config.trials.model.settings)
        trial.set_user_attr(SETTINGS, values)
        config = trial_config(self.config, values)
        trial.set_user_attr(EPOCHS, getattr(config.model.settings, "epochs", None))
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
                self.opened.tracking_uri, title, tags, self.config.state_dir, stop=self.stop
            ) as run:
                trial.set_user_attr(RUN_ID, run.run_id)
                run.log_params(config.flat())
                run.log_dict(CONFIG, config.flat())
                log_input(run, self.dataset)
                learner, data = build_learner_and_data(config, self.dataset)
                learner.fit(
                    data.train,
                    data.valid,
                    _reporting(run, trial, accuracies),
                    Checkpoints(stop=stop),
                )
                run.log_metrics({VALID_ACCURACY: max(accuracies)})
        except SyncError as error:  # the trial is done all the same
            log.warning("%s", error)
        return max(accuracies)


def _reporting(
    run: Run, trial: Trial, accuracies: list[float]
) -> Callable[[int, dict[str, float]], None]:
    """What a learner tells of its epochs: to the run, to the study, and whether to go on.

    The trial with the defaults always goes on: without its result nothing can be compared to it.
    """
    is_kept = DEFAULTS in trial.user_attrs

    def _on_epoch(epoch: int, row: dict[str, float]) -> None:
        run.log_metrics(row, step=epoch)
        accuracies.append(row[EPOCH_ACCURACY])
        trial.report(row[EPOCH_ACCURACY], epoch)
        if trial.should_prune() and not is_kept:
            raise TrialPruned(f"pruned after epoch {epoch}")

    return _on_epoch
