"""Pace of a training: its position in the LR schedule at each step, and the time of its end.

The position is the time in epochs of the plan. Without a time budget it counts steps. With one it
follows the clock, so that the learning rate reaches its end when the time does, on a machine of
any speed (Li et al. 2020: Budgeted Training). The recorded positions of a training repeat it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eyevsai.core.errors import UserError

Positions = list[list[float]]  # of each step of each epoch
END = -1.0  # position that ends an epoch, among ranks
# The mean duration of steps forgets with this time constant. It is longer than the time slices of
# other processes, which make single steps slow.
SMOOTHING_S = 5.0


def _constant(epoch: float) -> float:  # noqa: ARG001
    return 1.0


class Pace:
    """Pace of a training of a fixed number of epochs."""

    def __init__(self) -> None:
        self.num_epochs = 0
        self.cost_at: Callable[[float], float] = _constant
        self.positions: Positions = []  # recorded by a pace that depends on the clock
        self.checks_in_time = 0  # calls of `is_late` that returned False; recorded as well

    def start(self, num_epochs: int, cost_at: Callable[[float], float] = _constant) -> None:
        """Set the plan. Call before the first step.

        Args:
            num_epochs: length of the plan in epochs.
            cost_at: expected time of a step at a position, relative to the longest steps.
        """
        self.num_epochs, self.cost_at = num_epochs, cost_at

    def is_over(self, epoch: int) -> bool:
        """Return True if the training ends before `epoch`, counted from 1."""
        return epoch > self.num_epochs

    def is_late(self) -> bool:
        """Return True if the time of the training is over."""
        return False

    def label(self, epoch: int) -> str:
        """Return the name of an epoch, with the number of epochs if it is known."""
        return f"Epoch {epoch} of {self.num_epochs}"

    def next_position(self, epoch: int, step: int, num_steps: int) -> float | None:
        """Return the position of a step, in epochs of the plan; None to end the epoch before it.

        Args:
            epoch: epoch, from 1.
            step: step in the epoch, from 0.
            num_steps: steps of a full epoch.
        """
        return epoch - 1 + (step + 1) / num_steps

    def phase(self, epoch: int) -> int:
        """Return the epoch of the plan, from 1, whose trained modules `epoch` uses."""
        return epoch

    def end_of(self, epoch: int) -> float:
        """Return the position at the end of `epoch`, the last one that was trained."""
        return epoch

    def end_evaluation(self, seconds: float) -> None:
        """Record the duration of the evaluation after an epoch."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores, as values that JSON can represent."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned. Call after `start`."""


class _RecordedPositions(Pace):
    """Base of paces whose positions are recorded."""

    def label(self, epoch: int) -> str:
        return f"Epoch {epoch}"

    def phase(self, epoch: int) -> int:
        last = next((each[-1] for each in reversed(self.positions[: epoch - 1]) if each), 0.0)
        return min(int(last) + 1, self.num_epochs)

    def end_of(self, epoch: int) -> float:
        del epoch
        return self.positions[-1][-1]

    def _record(self, epoch: int, position: float) -> float:
        if len(self.positions) < epoch:
            self.positions.append([])
        self.positions[-1].append(position)
        return position

    def state_dict(self) -> dict[str, Any]:
        return {"positions": self.positions, "checks_in_time": self.checks_in_time}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.positions = [list(each) for each in state["positions"]]
        # checkpoints of earlier versions lack it
        self.checks_in_time = state.get("checks_in_time", 0)


@dataclass
class TimeBudget:
    """Time of a whole run, from the call to its end.

    Args:
        total_s: seconds of the budget.
        started_at: start of the call, in seconds of `clock`.
        tail_s: expected seconds from the end of the training to that of the run, besides the
            evaluations of the valid split.
        used_s: seconds that earlier calls of a resumed run used.
        clock: monotonic clock.
    """

    total_s: float
    started_at: float
    tail_s: float = 0.0
    used_s: float = 0.0
    clock: Callable[[], float] = time.monotonic

    def elapsed(self) -> float:
        """Return the seconds that the run has used."""
        return self.used_s + self.clock() - self.started_at


class TimedPace(_RecordedPositions):
    """Pace of a training that ends with its time budget.

    The window of the training begins with the first step, or with the first step after
    `untimed_epochs`. It ends so early that the last evaluations of the valid split fit: that of the
    last epoch, those of averages of weights, and that of the best weights. When steps become
    slower, the times that are reserved for the end grow in proportion.
    """

    def __init__(
        self,
        budget: TimeBudget,
        evaluation_s: float,
        untimed_epochs: int = 0,
        *,
        step_s: float = 0.0,
        has_features: bool = False,
        num_averages: int = 0,
    ) -> None:
        """Configure the pace.

        Args:
            budget: time budget of the run.
            evaluation_s: expected seconds of an evaluation by the network, until one is measured.
            untimed_epochs: epochs at the start that are as long as without a budget.
            step_s: seconds of a step when `evaluation_s` was measured; 0 if unknown.
            has_features: timed epochs use cached features, not the whole network.
            num_averages: averages of weights that are evaluated after the last epoch.
        """
        super().__init__()
        self.budget = budget
        self.untimed_epochs = untimed_epochs
        self.has_features = has_features
        self.num_averages = num_averages
        self._evaluation_s = evaluation_s  # after an epoch
        self._final_evaluation_s = evaluation_s  # of the best weights
        self._window_starts_s: float | None = None  # in seconds of the budget
        self._recent_s, self._recent_steps = 0.0, 0.0  # weighted sums of the last steps
        self._step_s = 0.0  # of a step with the highest cost: mean of the last ones
        self._fastest_step_s = 0.0  # minimum of the mean
        self._evaluated_step_s = step_s  # mean at the last evaluation
        self._last_step_at: float | None = None
        self._last_cost = 1.0  # of the last step

    def is_over(self, epoch: int) -> bool:
        if self.num_epochs == self.untimed_epochs:
            return epoch > self.num_epochs
        # a run has one step at least, also if its budget was used up before
        return epoch > self.untimed_epochs and bool(self.positions) and self._is_over()

    def next_position(self, epoch: int, step: int, num_steps: int) -> float | None:
        if epoch <= self.untimed_epochs:
            return self._record(epoch, super().next_position(epoch, step, num_steps) or 0.0)
        self._measure_step(is_first=step == 0)
        if step and self._is_over():
            return None
        # The position at the end of the step, as without a budget.
        share = min(self._share_in(self._step_s * self._last_cost), 1.0)
        length = self.num_epochs - self.untimed_epochs
        last = self.positions[-1][-1] if self.positions else 0.0
        position = max(self.untimed_epochs + length * share, last)
        self._last_cost = self.cost_at(position)
        return self._record(epoch, position)

    def is_late(self) -> bool:
        is_late = self.budget.elapsed() >= self.budget.total_s - self._reserved_s()
        self.checks_in_time += not is_late
        return is_late

    def end_evaluation(self, seconds: float) -> None:
        if self._last_step_at is None:
            return  # after an untimed epoch, which may evaluate cached features
        self._evaluation_s, self._evaluated_step_s = seconds, self._step_s
        if not self.has_features:
            self._final_evaluation_s = seconds

    def _measure_step(self, *, is_first: bool) -> None:
        """Update the mean duration of a step with the highest cost.

        Before the first step of an epoch, there was an evaluation.
        """
        now = self.budget.clock()
        if self._last_step_at is not None and not is_first:
            seconds = (now - self._last_step_at) / self._last_cost
            keep = math.exp(-seconds / SMOOTHING_S)
            self._recent_s = keep * self._recent_s + seconds
            self._recent_steps = keep * self._recent_steps + 1
            self._step_s = self._recent_s / self._recent_steps
            if self._recent_s >= SMOOTHING_S / 2:
                self._fastest_step_s = min(self._fastest_step_s or self._step_s, self._step_s)
        self._last_step_at = now

    def _is_over(self) -> bool:
        """Return True if less than half of the next step fits into the window."""
        return self._share_in(self._step_s * self._last_cost / 2) >= 1

    def _share_in(self, seconds: float) -> float:
        """Return the share of the window that will have passed in `seconds`."""
        elapsed = self.budget.elapsed()
        if self._window_starts_s is None:
            self._window_starts_s = elapsed
        window_s = self.budget.total_s - self._reserved_s() - self._window_starts_s
        return (elapsed + seconds - self._window_starts_s) / window_s if window_s > 0 else 1.0

    def _reserved_s(self) -> float:
        """Return the seconds that evaluations and the end of the run are expected to take."""
        tail_s = self.budget.tail_s * self._slowdown(self._fastest_step_s)
        evaluations_s = self._evaluation_s + (1 + self.num_averages) * self._final_evaluation_s
        return tail_s + evaluations_s * self._slowdown(self._evaluated_step_s)

    def _slowdown(self, step_s: float) -> float:
        """Return how many times as long as `step_s` a step takes now; 1 if it is unknown."""
        if not step_s or self._recent_s < SMOOTHING_S / 2:
            return 1.0
        return max(1.0, self._step_s / step_s)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "used_s": self.budget.elapsed(),
            "window_starts_s": self._window_starts_s,
            "evaluations_s": [self._evaluation_s, self._final_evaluation_s],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of an interrupted run; its budget continues with what is left."""
        super().load_state_dict(state)
        self.budget.used_s = state["used_s"]
        self._window_starts_s = state["window_starts_s"]
        self._evaluation_s, self._final_evaluation_s = state["evaluations_s"]


class RecordedPace(_RecordedPositions):
    """Pace that repeats the recorded positions of another training."""

    def __init__(
        self, record: Sequence[Sequence[float]], checks_in_time: int | None = None
    ) -> None:
        """Configure the pace.

        Args:
            record: positions of each step of each epoch.
            checks_in_time: recorded value; None if it is unknown, so that no check is late.
        """
        super().__init__()
        self.record = record
        self.recorded_checks = checks_in_time

    def is_late(self) -> bool:
        if self.checks_in_time == self.recorded_checks:
            return True
        self.checks_in_time += 1
        return False

    def is_over(self, epoch: int) -> bool:
        return epoch > len(self.record)

    def next_position(self, epoch: int, step: int, num_steps: int) -> float | None:
        """Return the recorded position of a step.

        Raises:
            UserError: the epoch has fewer steps than the recorded one.
        """
        recorded = self.record[epoch - 1]
        if len(recorded) > num_steps or (len(recorded) < num_steps and epoch < len(self.record)):
            raise UserError(
                f"The recorded schedule has {len(recorded)} steps in epoch {epoch}; with this data "
                f"and batch size an epoch has {num_steps}. Omit --replay, and set --minutes or "
                "--epochs."
            )
        return self._record(epoch, recorded[step]) if step < len(recorded) else None


class SharedPace(_RecordedPositions):
    """Pace of rank 0, used by all ranks of a process group."""

    def __init__(self, pace: Pace, broadcast: Callable[[Sequence[float]], list[float]]) -> None:
        """Configure the pace.

        Args:
            pace: pace of this process; only that of rank 0 is used.
            broadcast: returns the values of rank 0 on all ranks.
        """
        super().__init__()
        self.pace, self.broadcast = pace, broadcast

    def start(self, num_epochs: int, cost_at: Callable[[float], float] = _constant) -> None:
        super().start(num_epochs, cost_at)
        self.pace.start(num_epochs, cost_at)

    def is_over(self, epoch: int) -> bool:
        return bool(self.broadcast([float(self.pace.is_over(epoch))])[0])

    def is_late(self) -> bool:
        """Return True if the time of the training is over; only rank 0 knows that."""
        is_late = self.pace.is_late()
        self.checks_in_time = self.pace.checks_in_time
        return is_late

    def next_position(self, epoch: int, step: int, num_steps: int) -> float | None:
        own = self.pace.next_position(epoch, step, num_steps)
        (position,) = self.broadcast([END if own is None else own])
        return None if position == END else self._record(epoch, position)

    def end_evaluation(self, seconds: float) -> None:
        self.pace.end_evaluation(seconds)

    def state_dict(self) -> dict[str, Any]:
        return self.pace.state_dict() | super().state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.pace.load_state_dict(state)
