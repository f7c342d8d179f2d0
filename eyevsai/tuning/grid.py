"""Grid of a search space: points by index, which are never listed all at once."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from eyevsai.core.settings import Settings
from eyevsai.tuning.attributes import EXCLUDED, FIXED, SKIPPED
from eyevsai.tuning.search_space import Dimension, SearchSpace

ROUNDS = 4  # of the permutation


@dataclass(frozen=True)
class _Block:
    """Points of a grid that have the same values of all settings that others depend on."""

    values: Mapping[str, Any]  # of those settings
    axes: Mapping[str, list[Any]]  # points of the other settings that matter beside them

    @property
    def size(self) -> int:
        return math.prod(map(len, self.axes.values()))


class Grid:
    """Grid of a search space; a conditional setting is part of the points where it matters.

    Args:
        space: search space.
        defaults: values of the settings that are neither searched nor fixed, for conditions.
    """

    def __init__(self, space: SearchSpace, defaults: Settings | None = None) -> None:
        conditions = [each.setting.when for each in space.dimensions.values()]
        controlling = {when.name for when in conditions if when}
        choices: list[dict[str, Any]] = [{}]
        for name, dimension in space.dimensions.items():
            if name in controlling:
                choices = [
                    {**values, **point}
                    for values in choices
                    for point in _extensions(name, dimension, {**space.fixed, **values}, defaults)
                ]
        self._blocks = [
            _Block(
                values,
                {
                    name: dimension.points
                    for name, dimension in space.dimensions.items()
                    if name not in controlling
                    and dimension.matters({**space.fixed, **values}, defaults)
                },
            )
            for values in choices
        ]
        self._ends = list(accumulate(block.size for block in self._blocks))
        self.size = self._ends[-1]

    def point(self, index: int) -> dict[str, Any]:
        """Return the settings of a point, from 0 to `size` - 1, without fixed settings."""
        number = bisect_right(self._ends, index)
        block = self._blocks[number]
        rest = index - (self._ends[number] - block.size)
        values = dict(block.values)
        for name, points in block.axes.items():
            rest, digit = divmod(rest, len(points))
            values[name] = points[digit]
        return values

    def index(self, values: Mapping[str, Any]) -> int | None:
        """Return the index of the point with these values; None if it is not on the grid."""
        for block, end in zip(self._blocks, self._ends, strict=True):
            if any(
                name not in values or values[name] != value for name, value in block.values.items()
            ):
                continue
            index, stride = end - block.size, 1
            for name, points in block.axes.items():
                digit = _find(values[name], points) if name in values else None
                if digit is None:
                    return None
                index, stride = index + digit * stride, stride * len(points)
            return index
        return None

    def shuffled_index(self, position: int) -> int:
        """Return the index at a position of a fixed pseudo-random order of all points.

        The order is that of a Feistel network over the bits of an index, applied again while the
        result is outside the grid.
        """
        half = max(1, ((self.size - 1).bit_length() + 1) // 2)
        mask, index = (1 << half) - 1, position % self.size
        while True:
            high, low = index >> half, index & mask
            for number in range(ROUNDS):
                digest = hashlib.sha256(f"{number}/{low}".encode()).digest()
                high, low = low, high ^ (int.from_bytes(digest, "big") & mask)
            index = high << half | low
            if index < self.size:
                return index


def _extensions(
    name: str, dimension: Dimension, values: Mapping[str, Any], defaults: Settings | None
) -> list[dict[str, Any]]:
    """Return the points of a dimension beside `values`; one without it where it does not matter."""
    if not dimension.matters(values, defaults):
        return [{}]
    return [{name: point} for point in dimension.points]


def _find(value: Any, points: list[Any]) -> int | None:
    """Return the number of the point that equals `value`, apart from the rounding of a float."""
    for number, point in enumerate(points):
        if point == value or (
            isinstance(point, float)
            and isinstance(value, float)
            and math.isclose(point, value, rel_tol=1e-9)
        ):
            return number
    return None


class GridProgress:
    """Progress of a study over a grid, from its trials.

    A trial is created with its settings, so that every process sees those of all trials with lower
    numbers.
    """

    def __init__(self, grid: Grid, trials: Iterable[FrozenTrial]) -> None:
        self.grid = grid
        # Trials that are repeated leave their points open; skipped ones never succeed.
        self._trials = [
            trial
            for trial in trials
            if EXCLUDED not in trial.user_attrs or SKIPPED in trial.user_attrs
        ]

    def has_queued(self) -> bool:
        """Return True if a queued trial waits."""
        return any(trial.state is TrialState.WAITING for trial in self._trials)

    def num_open(self) -> int:
        """Return the number of points to start, and of queued trials that are not on the grid."""
        started, num_off_grid = set[int](), 0
        for trial in self._trials:
            index = self._find(trial)
            if trial.state is TrialState.WAITING:
                num_off_grid += index is None
            elif index is not None:
                started.add(index)
        return self.grid.size - len(started) + num_off_grid

    def next_point(self, position: int) -> dict[str, Any] | None:
        """Return the first point without a trial, from `position` in a fixed pseudo-random order.

        None if all points have trials.
        """
        used = {self._find(trial) for trial in self._trials}
        indices = (self.grid.shuffled_index(position + n) for n in range(len(used) + 1))
        index = next((index for index in indices if index not in used), None)
        return None if index is None else self.grid.point(index)

    def repeats(self, trial: FrozenTrial) -> bool:
        """Return True if a trial has no point, or that of a trial with a lower number."""
        if FIXED not in trial.system_attrs:
            return True
        index = self._find(trial)
        return index is not None and any(
            other.number < trial.number and self._find(other) == index for other in self._trials
        )

    def _find(self, trial: FrozenTrial) -> int | None:
        """Return the index of a trial's settings, suggested or queued; None if not on the grid."""
        return self.grid.index({**trial.system_attrs.get(FIXED, {}), **trial.params})
