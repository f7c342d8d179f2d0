"""Where a study looks: what settings declare of themselves, narrowed by a file, as Optuna's
distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from eyevsai.core.errors import UserError
from eyevsai.core.names import nearest
from eyevsai.core.settings import Choice, Range, Setting, Settings, list_settings
from eyevsai.core.toml import read_toml
from eyevsai.training.settings import ThreadSettings

GRID_POINTS = 4  # of a range, for a grid
# what computes is no part of what is looked for, nor of what was found
DEVICE = ThreadSettings.PANEL


@dataclass(frozen=True)
class Dimension:
    """One setting and the values among which it is looked for."""

    setting: Setting
    space: Range | Choice

    @property
    def distribution(self) -> BaseDistribution:
        """The same for Optuna."""
        if isinstance(self.space, Choice):
            return CategoricalDistribution(self.space.options)
        if self.setting.type is int:
            return IntDistribution(int(self.space.low), int(self.space.high), log=self.space.log)
        return FloatDistribution(self.space.low, self.space.high, log=self.space.log)

    @property
    def points(self) -> list[Any]:
        """A few values that stand for all of them."""
        if isinstance(self.space, Choice):
            return list(self.space.options)
        low, high = self.space.low, self.space.high
        shares = [number / (GRID_POINTS - 1) for number in range(GRID_POINTS)]
        values = [
            low * (high / low) ** share if self.space.log else low + (high - low) * share
            for share in shares
        ]
        return sorted({round(value) for value in values}) if self.setting.type is int else values

    def nearest(self, value: Any) -> Any:
        """Return the value of this dimension that is nearest to `value`: itself, if the dimension
        contains it.

        Where nothing is near, as for text that is not among the options, it is the middle one of
        `points`.
        """
        if isinstance(self.space, Range) and _is_number(value):
            return self.setting.type(min(max(value, self.space.low), self.space.high))
        if isinstance(self.space, Choice) and value in self.space:
            return value
        numbers = [option for option in self.points if _is_number(option)]
        if not (_is_number(value) and numbers):
            return self.points[len(self.points) // 2]
        ranges = (self.setting.search, self.setting.allowed)
        is_log = (
            any(isinstance(each, Range) and each.log for each in ranges)
            and min(value, *numbers) > 0
        )
        scale: Callable[[float], float] = math.log if is_log else float
        return min(numbers, key=lambda option: abs(scale(option) - scale(value)))

    def describe(self) -> Any:
        """Plain values that tell this dimension from another."""
        return list(self.space.options) if isinstance(self.space, Choice) else vars(self.space)


@dataclass(frozen=True)
class SearchSpace:
    """The dimensions of a study, and the settings that are the same in all its trials."""

    dimensions: Mapping[str, Dimension]
    fixed: Mapping[str, Any]

    def suggest(self, trial: Trial, defaults: Settings) -> dict[str, Any]:
        """The settings of one trial; those that matter only beside a value that was not chosen are
        left alone.
        """
        return self._choose(defaults, lambda dimension: _suggest(trial, dimension))

    def nearest(self, defaults: Settings) -> dict[str, Any]:
        """Return the point of the space that is nearest to `defaults`, without the settings that
        are fixed.

        Settings that matter only beside a value that it does not have are left out, as in a trial.
        """
        chosen = self._choose(
            defaults, lambda dimension: dimension.nearest(getattr(defaults, dimension.setting.name))
        )
        return {name: value for name, value in chosen.items() if name in self.dimensions}

    def _choose(self, defaults: Settings, choose: Callable[[Dimension], Any]) -> dict[str, Any]:
        chosen = dict(self.fixed)
        for name, dimension in self.dimensions.items():
            when = dimension.setting.when
            if when is None or chosen.get(when.name, getattr(defaults, when.name)) in when.values:
                chosen[name] = choose(dimension)
        return chosen

    def grid(self) -> dict[str, list[Any]]:
        """The values of each dimension for a grid."""
        return {name: dimension.points for name, dimension in self.dimensions.items()}

    def describe(self) -> dict[str, Any]:
        """Plain values that tell this space from another."""
        found = {name: dimension.describe() for name, dimension in self.dimensions.items()}
        return {**found, **{f"{name} fixed": value for name, value in self.fixed.items()}}


def build_search_space(
    declared: type[Settings], given: Mapping[str, Any], path: str | None
) -> SearchSpace:
    """The space of a family's settings: as declared, as a file says instead, without what was
    `given`.

    Raises:
        UserError: the file cannot be read, names what is no setting, or an empty or forbidden
            range; or nothing is left to look for.
    """
    known = {setting.name: setting for setting in list_settings(declared)}
    dimensions = {
        name: Dimension(each, each.search)
        for name, each in known.items()
        if each.search is not None
    }
    fixed = {
        name: value
        for name, value in given.items()
        if name in known and known[name].panel != DEVICE
    }
    for name, wanted in (
        read_toml(path, "--space", "lr = {low = 1e-4, high = 1e-2}") if path else {}
    ).items():
        if name not in known:
            guess = nearest(name, known)
            raise UserError(
                f"{path}: {name} is no setting of this model."
                + (f" Did you mean {guess}?" if guess else "")
            )
        try:
            space = _parse(known[name], wanted)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        if isinstance(space, Range | Choice):
            dimensions[name] = Dimension(known[name], space)
        else:
            fixed.setdefault(name, space)
    left = {name: dimension for name, dimension in dimensions.items() if name not in fixed}
    if not left:
        raise UserError(
            "Every setting of this model is fixed: there is nothing to tune. Leave a flag out, "
            "or train."
        )
    return SearchSpace(_dependants_last(left), fixed)


def _dependants_last(dimensions: Mapping[str, Dimension]) -> dict[str, Dimension]:
    free = {name: each for name, each in dimensions.items() if each.setting.when is None}
    return free | {name: each for name, each in dimensions.items() if name not in free}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _suggest(trial: Trial, dimension: Dimension) -> Any:
    name, space = dimension.setting.name, dimension.space
    if isinstance(space, Choice):
        return trial.suggest_categorical(name, space.options)
    if dimension.setting.type is int:
        return trial.suggest_int(name, int(space.low), int(space.high), log=space.log)
    return trial.suggest_float(name, space.low, space.high, log=space.log)


def _parse(setting: Setting, wanted: Any) -> Any:
    """A range, a choice, or the one value that a file gives a setting."""
    if isinstance(wanted, dict):
        return _parse_range(setting, wanted)
    if isinstance(wanted, list):
        if not wanted:
            raise UserError(f"{setting.name} = [] leaves nothing to choose from.")
        return Choice(tuple(_checked(setting, value) for value in wanted))
    return _checked(setting, wanted)


def _parse_range(setting: Setting, wanted: dict[str, Any]) -> Range:
    if not {"low", "high"} <= set(wanted) <= {"low", "high", "log"} or setting.type not in (
        int,
        float,
    ):
        raise UserError(
            f"{setting.name} takes a value, a list, or for numbers "
            f"{{low = ..., high = ..., log = true}}."
        )
    low, high = _checked(setting, wanted["low"]), _checked(setting, wanted["high"])
    log = wanted.get("log", isinstance(setting.search, Range) and setting.search.log)
    if low > high:
        raise UserError(f"{setting.name}: the range from {low} to {high} is empty.")
    if log and not (low > 0 and math.isfinite(high)):
        raise UserError(f"{setting.name}: a range with log = true begins above 0, not at {low}.")
    return Range(low, high, log)


def _checked(setting: Setting, value: Any) -> Any:
    if setting.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    setting.check(value)
    return value
