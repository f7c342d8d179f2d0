"""A study: trials that several processes ask for, each of which may die at any time."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from eyevsai.core.errors import JobError, TrialPruned, UserError, first_line
from eyevsai.core.fingerprint import describe_change
from eyevsai.core.locks import host_lock
from eyevsai.core.settings import Settings
from eyevsai.data.seeding import derive_seed
from eyevsai.store.uris import mask_password
from eyevsai.tuning.samplers import make_pruner, make_sampler
from eyevsai.tuning.search_space import SearchSpace
from eyevsai.tuning.settings import TuneSettings

log = logging.getLogger("eyevsai")

__all__ = ["Study", "StudyStorage", "Trial"]

FINGERPRINT, PARENT, PROCESS, EXCLUDED, ERROR, RUN_ID = (
    "basis",
    "parent",
    "process",
    "left_out",
    "error",
    "run_id",
)
# the attribute of the trial that has the defaults, to which others are compared
DEFAULTS = "defaults"
# attributes of a trial: all that was chosen for it, its configured epochs
SETTINGS, EPOCHS = ("settings", "epochs")
FIXED = "fixed_params"  # Optuna's name for the parameters of a trial that was queued
# after which a trial that names no process is taken for one whose process died before it could
NAMELESS_S = 15.0
DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class _JournalLock(JournalFileOpenLock):
    """A lock that the kernel takes back from a process that dies: Optuna's own would stay for half
    a minute.
    """

    def __init__(self, file: Path) -> None:
        self._lock = FileLock(f"{file}.flock")

    def acquire(self) -> bool:
        """Waits for the lock."""
        self._lock.acquire()
        return True

    def release(self) -> None:
        """Gives the lock back."""
        self._lock.release()


@dataclass(frozen=True)
class StudyStorage:
    """Where a study is kept: a database, or a file on this machine."""

    url: str | None
    file: Path

    def open(self) -> BaseStorage:
        """The storage.

        Raises:
            UserError: it cannot be reached or written.
        """
        try:
            if self.url is None:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                return JournalStorage(JournalFileBackend(str(self.file), _JournalLock(self.file)))
            name = hashlib.sha256(self.url.encode()).hexdigest()[:16]
            with host_lock(f"studies-{name}.lock"):  # tables are made without one
                return RDBStorage(self.url, engine_kwargs={"pool_pre_ping": True})
        except Exception as error:  # database drivers raise of every kind
            where = mask_password(self.url) if self.url else str(self.file)
            raise UserError(
                f"The storage of studies {where} cannot be opened "
                f"({mask_password(first_line(error))}). "
                "Mend it, or name another with --storage."
            ) from error


class Study:
    """One study as one of its processes sees it."""

    def __init__(
        self,
        name: str,
        place: StudyStorage,
        settings: TuneSettings,
        space: SearchSpace,
        epochs: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.name = name
        self.settings = settings
        self.space = space
        self.storage = place.open()
        self.pruner = make_pruner(settings.pruner, epochs)
        # by number, on this process' own clock: hosts may disagree
        self._nameless_since: dict[int, float] = {}
        self.study = optuna.create_study(
            study_name=name,
            storage=self.storage,
            direction="maximize",
            load_if_exists=True,
            pruner=self.pruner,
        )

    def check_or_store_space(self, fingerprint: dict[str, Any]) -> None:
        """Writes down what the study is about, or holds an earlier one of this name against it.

        Raises:
            UserError: the earlier one is about something else; the message says what differs.
        """
        texts = {name: json.dumps(value, sort_keys=True) for name, value in fingerprint.items()}
        before = self.study.user_attrs.get(FINGERPRINT)
        if before is None:
            self.study.set_user_attr(FINGERPRINT, texts)
        elif change := describe_change(before, texts):
            taken = {each.study_name for each in optuna.get_all_study_summaries(self.storage)}
            number = next(
                number
                for number in range(2, len(taken) + 3)
                if f"{self.name}-{number}" not in taken
            )
            raise UserError(
                f"There is a study {self.name} of another space: {change}. Bring it back, or "
                f"start another with --study {self.name}-{number}."
            )

    def enqueue_defaults(self, defaults: Settings) -> dict[str, tuple[Any, Any]]:
        """Queue the defaults as the first trial, unless the study has trials already; again if they
        were lost.

        Returns:
            The settings whose default is outside the space: the default, and the nearest value,
            which is queued.
        """
        trials = self.trials()
        are_lost = self.defaults() is None and any(DEFAULTS in trial.user_attrs for trial in trials)
        if trials and not are_lost:
            return {}
        values = self.space.nearest(defaults)
        self.study.enqueue_trial(values, user_attrs={DEFAULTS: True})
        wanted = {name: getattr(defaults, name) for name in values}
        return {
            name: (wanted[name], value) for name, value in values.items() if value != wanted[name]
        }

    @property
    def parent(self) -> str | None:
        """The run of the whole study; None until one was made."""
        found: str | None = self.study.user_attrs.get(PARENT)
        return found

    @parent.setter
    def parent(self, run_id: str) -> None:
        self.study.set_user_attr(PARENT, run_id)

    def ask(self, seed: int, worker: int, process: str) -> Trial | None:
        """The next trial, which `process` works on; None when the study has all that it is to
        have.
        """
        if self.num_remaining() <= 0:
            return None
        started = len(self.trials())
        drawn = derive_seed(seed + worker, "sampler", started) % 2**32
        self.study.sampler = make_sampler(self.settings, self.space, drawn)
        trial = self.study.ask()
        trial.set_user_attr(PROCESS, process)
        if self._repeats_defaults(trial):
            self._exclude(trial, "another process queued the defaults too")
            return self.ask(seed, worker, process)
        # Two processes may ask at the same time: of all that count, those with the lowest numbers
        # are taken, the waiting ones included, since another process may be taking one of them just
        # now.
        if (
            sum(other.number < trial.number for other in self.counted_trials())
            >= self.settings.n_trials
        ):
            self._exclude(trial, "there were enough")
            return None
        return trial

    def tell(self, trial: Trial, outcome: float | BaseException) -> None:
        """Ends a trial: by its value, or by what ended it before it had one."""
        if isinstance(outcome, TrialPruned):
            self.study.tell(trial, state=TrialState.PRUNED)
        elif isinstance(outcome, Exception):
            trial.set_user_attr(ERROR, mask_password(first_line(outcome)))
            self.study.tell(trial, state=TrialState.FAIL)
        elif isinstance(outcome, BaseException):
            # a signal: the trial is begun again when the study is gone on with
            self._exclude(trial, "interrupted")
            self._requeue(trial)
        else:
            self.study.tell(trial, outcome)

    def reap_stale_trials(
        self, is_stale: Callable[[str, str], bool], result: Callable[[str], float | None]
    ) -> int:
        """Ends trials whose process has died, by its description and its run's id, and queues their
        settings again.

        A trial whose process died between the end of its run and telling so has the run's `result`,
        by its id.
        """
        requeued, now = 0, time.monotonic()
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if PROCESS in trial.user_attrs:
                lost = is_stale(trial.user_attrs[PROCESS], trial.user_attrs.get(RUN_ID, ""))
            else:
                lost = now - self._nameless_since.setdefault(trial.number, now) > NAMELESS_S
            if not lost:
                continue
            value = result(run_id) if (run_id := trial.user_attrs.get(RUN_ID)) else None
            try:
                if value is not None:
                    self.study.tell(trial.number, value)
                    continue
                self.storage.set_trial_user_attr(trial._trial_id, EXCLUDED, "its process died")
                self.study.tell(trial.number, state=TrialState.FAIL)
            except (ValueError, RuntimeError):  # another process did so at the same time
                continue
            self._requeue(trial)
            requeued += 1
        return requeued

    def trials(self) -> list[FrozenTrial]:
        """All trials by number."""
        return self.study.get_trials(deepcopy=False)

    def counted_trials(self) -> list[FrozenTrial]:
        """The trials that the study is made of: not those whose process died, which were begun
        again.
        """
        return [trial for trial in self.trials() if EXCLUDED not in trial.user_attrs]

    def started(self) -> list[FrozenTrial]:
        """Return the trials that are counted, without those that are only queued."""
        return [trial for trial in self.counted_trials() if trial.state is not TrialState.WAITING]

    def num_remaining(self) -> int:
        """How many trials are still to be begun."""
        return self.settings.n_trials - len(self.started())

    def is_done(self) -> bool:
        """Whether all trials have ended."""
        return self.num_remaining() <= 0 and all(
            trial.state.is_finished() for trial in self.started()
        )

    def best(self) -> FrozenTrial | None:
        """The trial with the highest value; the first of equal ones."""
        complete = [trial for trial in self.counted_trials() if trial.state is TrialState.COMPLETE]
        return max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)

    def defaults(self) -> FrozenTrial | None:
        """Return the trial with the defaults; None if the study was begun by a version that queued
        none.
        """
        return next(
            (trial for trial in self.counted_trials() if DEFAULTS in trial.user_attrs), None
        )

    def check_not_failed(self) -> FrozenTrial:
        """The best trial.

        Raises:
            JobError: none has a value; the message has the commonest reason.
        """
        best = self.best()
        if best is None:
            begun = self.started()
            reasons = Counter(trial.user_attrs.get(ERROR, "pruned") for trial in begun)
            (reason, count), *_ = reasons.most_common(1) or [("no trial was begun", 0)]
            raise JobError(
                f"No trial of study {self.name} has a result. {count} of {len(begun)}: {reason}"
            )
        return best

    def _repeats_defaults(self, trial: Trial) -> bool:
        """Return True if the trial has the defaults, and one before it, too: two processes began
        the study at once.
        """
        if DEFAULTS not in trial.user_attrs:
            return False
        first = self.defaults()
        return first is not None and first.number < trial.number

    def _requeue(self, trial: Trial | FrozenTrial) -> None:
        """Queue a trial again: what was chosen for it, and what it was to have if nothing was
        chosen yet.
        """
        lost = self.storage.get_trial(trial._trial_id)
        marks = {DEFAULTS: True} if DEFAULTS in lost.user_attrs else None
        self.study.enqueue_trial(
            {**lost.system_attrs.get(FIXED, {}), **lost.params}, user_attrs=marks
        )

    def _exclude(self, trial: Trial, why: str) -> None:
        trial.set_user_attr(EXCLUDED, why)
        self.study.tell(trial, state=TrialState.FAIL)
