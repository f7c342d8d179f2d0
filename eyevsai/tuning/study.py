"""Study whose trials run in several processes, each of which may die at any time."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from eyevsai.core.errors import JobError, TrialPruned, UserError, first_line
from eyevsai.core.fingerprint import describe_change
from eyevsai.core.settings import Settings
from eyevsai.data.seeding import derive_seed
from eyevsai.store.uris import mask_password
from eyevsai.tuning.attributes import (
    DEFAULTS,
    ERROR,
    EXCLUDED,
    FINGERPRINT,
    FIXED,
    PARENT,
    PROCESS,
    RUN_ID,
    SKIPPED,
)
from eyevsai.tuning.grid import Grid, GridProgress
from eyevsai.tuning.samplers import make_pruner, make_sampler
from eyevsai.tuning.search_space import SearchSpace
from eyevsai.tuning.settings import TuneSettings
from eyevsai.tuning.storage import StudyStorage

log = logging.getLogger("eyevsai")

__all__ = ["RUN_ID", "Study", "StudyStorage", "Trial"]

# A trial without a process attribute for so long is stale: its process died before setting it.
NAMELESS_S = 15.0


class Study:
    """A study, opened by one of its processes."""

    def __init__(
        self,
        name: str,
        location: StudyStorage,
        settings: TuneSettings,
        space: SearchSpace,
        epochs: int,
        *,
        defaults: Settings | None = None,
    ) -> None:
        """Open the study, and create it if it does not exist.

        Args:
            name: name of the study.
            location: location of its storage.
            settings: sampler, pruner and number of trials.
            space: search space.
            epochs: configured epochs of a trial, for the pruner.
            defaults: values of the settings outside the space, for the conditions of a grid.

        Raises:
            UserError: the storage is unreachable or not writable.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.name = name
        self.settings = settings
        self.space = space
        # A grid is lazy: its points are computed one by one, as trials start.
        self.grid = Grid(space, defaults) if settings.sampler == "grid" else None
        self.storage = location.open()
        self.pruner = make_pruner(settings.pruner, epochs)
        # First observation by trial number, on the clock of this process: those of hosts differ.
        self._nameless_since: dict[int, float] = {}
        try:
            self.study = optuna.create_study(
                study_name=name,
                storage=self.storage,
                direction="maximize",
                load_if_exists=True,
                pruner=self.pruner,
            )
        except optuna.exceptions.StorageInternalError as error:  # the database is read-only
            raise location.unusable(error) from error

    def check_or_store_space(self, fingerprint: dict[str, Any]) -> None:
        """Store the fingerprint of a new study, or compare it with that of an existing one.

        Raises:
            UserError: the existing study has another fingerprint. The message lists differences.
        """
        texts = {name: json.dumps(value, sort_keys=True) for name, value in fingerprint.items()}
        before = self.study.user_attrs.get(FINGERPRINT)
        if before is None:
            self.study.set_user_attr(FINGERPRINT, texts)
        elif change := describe_change(before, texts):
            names = {each.study_name for each in optuna.get_all_study_summaries(self.storage)}
            number = next(
                number
                for number in range(2, len(names) + 3)
                if f"{self.name}-{number}" not in names
            )
            raise UserError(
                f"Study {self.name} cannot be resumed, because its inputs differ: {change}. "
                f"Restore them, or start another study with --study {self.name}-{number}."
            )

    def enqueue_defaults(self, defaults: Settings) -> dict[str, tuple[Any, Any]]:
        """Queue the defaults as the first trial of a new study.

        If the process of that trial died and it was not requeued, queue the defaults again.

        Returns:
            By name, the settings whose default is outside the space: the default, and the nearest
            value in the space, which is queued instead. Empty if nothing was queued.
        """
        trials = self.trials()
        are_lost = self.defaults() is None and any(DEFAULTS in trial.user_attrs for trial in trials)
        if trials and not are_lost:
            return {}
        values = self.space.nearest(defaults)
        self.study.enqueue_trial(values, user_attrs={DEFAULTS: True})
        originals = {name: getattr(defaults, name) for name in values}
        return {
            name: (originals[name], value)
            for name, value in values.items()
            if value != originals[name]
        }

    @property
    def parent(self) -> str | None:
        """Id of the run of the whole study; None until it is set."""
        run_id: str | None = self.study.user_attrs.get(PARENT)
        return run_id

    @parent.setter
    def parent(self, run_id: str) -> None:
        self.study.set_user_attr(PARENT, run_id)

    def ask(self, seed: int, worker: int, process: str) -> Trial | None:
        """Start the next trial.

        Args:
            seed: seed of the study.
            worker: number of the worker, which gets its own random numbers.
            process: description of this process, to detect stale trials.

        Returns:
            The trial, or None if all `n_trials` trials or all points of the grid have started.
            Those that still run may be queued again: if `is_done` returns False, call this again
            later.
        """
        if self.num_remaining() <= 0:
            return None
        num_trials = len(self.trials())
        sampler_seed = derive_seed(seed + worker, "sampler", num_trials) % 2**32
        self.study.sampler = make_sampler(self.settings, sampler_seed)
        # Processes that start trials at the same time rarely look from the same position.
        trial = self._start_point(num_trials + worker) or self.study.ask()
        trial.set_user_attr(PROCESS, process)
        if self._repeats_defaults(trial):
            self._exclude(trial, "another process has queued the defaults, too")
            return self.ask(seed, worker, process)
        if self._repeats_point(trial):
            self._exclude(trial, "another process has started this point of the grid, too")
            return self.ask(seed, worker, process)
        # Several processes may start trials at the same time. Of all counted trials, those with the
        # lowest numbers are run. Queued trials count as well, since another process may be starting
        # one of them right now.
        if (
            sum(other.number < trial.number for other in self.counted_trials())
            >= self.settings.n_trials
        ):
            self._exclude(trial, "the study has enough trials")
            return None
        return trial

    def tell(self, trial: Trial, outcome: float | BaseException) -> None:
        """End a trial, and store its outcome.

        If another process has reaped the trial as stale, its outcome is not stored; a warning
        is logged.

        Args:
            trial: running trial.
            outcome: its value; or the exception that ended it: TrialPruned marks it as pruned,
                another Exception as failed, and an interruption queues its settings again.
        """
        if self.storage.get_trial(trial._trial_id).state.is_finished():
            log.warning(
                "The outcome of trial %d is not stored: another process ended the trial, because "
                "this one seemed to have died.",
                trial.number,
            )
        elif isinstance(outcome, TrialPruned):
            self.study.tell(trial, state=TrialState.PRUNED)
        elif isinstance(outcome, Exception):
            trial.set_user_attr(ERROR, mask_password(first_line(outcome)))
            self.study.tell(trial, state=TrialState.FAIL)
        elif isinstance(outcome, BaseException):
            # Interrupted by a signal: the trial is repeated when the study is resumed.
            self._exclude(trial, "interrupted")
            self._requeue(trial)
        else:
            self.study.tell(trial, outcome)

    def skip(self, trial: Trial, reason: str) -> None:
        """End a trial whose settings conflict; it does not count, and is not repeated."""
        trial.set_user_attr(SKIPPED, reason)
        self._exclude(trial, "its settings conflict")

    def reap_stale_trials(
        self, is_stale: Callable[[str, str], bool], result: Callable[[str], float | None]
    ) -> int:
        """End running trials whose process has died, and queue their settings again.

        A trial without a description of its process is stale `NAMELESS_S` after the first call that
        found it.

        Args:
            is_stale: returns True if the process has died, given the description of the process and
                the id of the trial's run, which is empty before the run exists.
            result: returns the value of a completed run by its id, else None. A trial whose process
                died after its run had completed gets this value, and is not queued again.

        Returns:
            The number of trials that were queued again.
        """
        requeued, now = 0, time.monotonic()
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if PROCESS in trial.user_attrs:
                is_lost = is_stale(trial.user_attrs[PROCESS], trial.user_attrs.get(RUN_ID, ""))
            else:
                is_lost = now - self._nameless_since.setdefault(trial.number, now) > NAMELESS_S
            if not is_lost:
                continue
            value = result(run_id) if (run_id := trial.user_attrs.get(RUN_ID)) else None
            try:
                if value is not None:
                    self.study.tell(trial.number, value)
                    continue
                self.storage.set_trial_user_attr(trial._trial_id, EXCLUDED, "its process has died")
                self.study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, RuntimeError):  # another process ended the trial at the same time
                continue
            self._requeue(trial)
            requeued += 1
        return requeued

    def trials(self) -> list[FrozenTrial]:
        """Return all trials, sorted by number, including queued and excluded ones."""
        return self.study.get_trials(deepcopy=False)

    def counted_trials(self) -> list[FrozenTrial]:
        """Return the trials that count as trials of the study.

        Interrupted trials and those whose process has died, which are repeated, do not count, nor
        do surplus trials of concurrent processes.
        """
        return [trial for trial in self.trials() if EXCLUDED not in trial.user_attrs]

    def started_trials(self) -> list[FrozenTrial]:
        """Return the counted trials without queued ones."""
        return [trial for trial in self.counted_trials() if trial.state is not TrialState.WAITING]

    def num_remaining(self) -> int:
        """Return the number of trials still to start; negative if the study has more.

        A study of a grid ends when all points have started, even before `n_trials`.
        """
        num_remaining = self.settings.n_trials - len(self.started_trials())
        progress = self._grid_progress()
        return num_remaining if progress is None else min(num_remaining, progress.num_open())

    def is_grid_complete(self) -> bool:
        """Return True if trials of all points of the grid have started."""
        progress = self._grid_progress()
        return progress is not None and progress.num_open() == 0

    def is_done(self) -> bool:
        """Return True if all trials of the study have started and ended."""
        return self.num_remaining() <= 0 and all(
            trial.state.is_finished() for trial in self.started_trials()
        )

    def best(self) -> FrozenTrial | None:
        """Return the complete trial with the highest value, the first of equal ones, or None."""
        complete = [trial for trial in self.counted_trials() if trial.state is TrialState.COMPLETE]
        return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)

    def defaults(self) -> FrozenTrial | None:
        """Return the first counted trial with the defaults, which may not have ended yet.

        None if there is none: the study is new, or of a version that queued none, or the trial was
        interrupted and is not queued again yet.
        """
        return next(
            (trial for trial in self.counted_trials() if DEFAULTS in trial.user_attrs), None
        )

    def require_best(self) -> FrozenTrial:
        """Return the best trial.

        Raises:
            JobError: no trial has a value. The message contains the most common reason.
        """
        best = self.best()
        if best is None:
            trials = self.started_trials()
            reasons = Counter(trial.user_attrs.get(ERROR, "pruned") for trial in trials)
            (reason, count), *_ = reasons.most_common(1) or [("no trial started", 0)]
            raise JobError(
                f"No trial of study {self.name} has a result. {count} of {len(trials)}: {reason}"
            )
        return best

    def _repeats_defaults(self, trial: Trial) -> bool:
        """Return True if an earlier trial has the defaults, too.

        That happens when two processes start the study at the same time.
        """
        if DEFAULTS not in trial.user_attrs:
            return False
        first = self.defaults()
        return first is not None and first.number < trial.number

    def _start_point(self, position: int) -> Trial | None:
        """Start a trial of the next point of the grid, from `position` in the grid's order.

        None without a grid or an open point, or if a queued trial has to start first. A point is
        not queued, since two processes can take the same trial from a queue in SQLite.
        """
        progress = self._grid_progress()
        if progress is None or progress.has_queued():
            return None
        point = progress.next_point(position)
        if point is None:
            return None
        template = optuna.trial.create_trial(state=TrialState.RUNNING, system_attrs={FIXED: point})
        return Trial(self.study, self.storage.create_new_trial(self.study._study_id, template))

    def _grid_progress(self) -> GridProgress | None:
        return None if self.grid is None else GridProgress(self.grid, self.trials())

    def _repeats_point(self, trial: Trial) -> bool:
        """Return True if the trial has no point of the grid, or that of an earlier trial.

        That happens when several processes start trials at the same time.
        """
        progress = self._grid_progress()
        if progress is None or DEFAULTS in trial.user_attrs:
            return False
        return progress.repeats(self.storage.get_trial(trial._trial_id))

    def _requeue(self, trial: Trial | FrozenTrial) -> None:
        """Queue the settings of a trial again: its suggested ones, and those it was queued with."""
        frozen = self.storage.get_trial(trial._trial_id)
        attributes = {DEFAULTS: True} if DEFAULTS in frozen.user_attrs else None
        self.study.enqueue_trial(
            {**frozen.system_attrs.get(FIXED, {}), **frozen.params}, user_attrs=attributes
        )

    def _exclude(self, trial: Trial, reason: str) -> None:
        """Fail the trial, and mark it as not counted."""
        trial.set_user_attr(EXCLUDED, reason)
        self.study.tell(trial, state=TrialState.FAIL)
