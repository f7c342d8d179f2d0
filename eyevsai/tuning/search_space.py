"""Search space of a study: declared ranges, optionally overridden by a TOML file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
from eyevsai.training.settings import ThreadSettings
from eyevsai.tuning.settings import read_space

GRID_POINTS = 4  # points of a range in a grid
# Device settings are not searched, and not stored with the best settings.
DEVICE_PANEL = ThreadSettings.PANEL


@dataclass(frozen=True)
class Dimension:
    """A searched setting and its range or choice."""

    setting: Setting
    space: Range | Choice

    @property
    def distribution(self) -> BaseDistribution:
        """Optuna's distribution of the dimension."""
        if isinstance(self.space, Choice):
            return CategoricalDistribution(self.space.options)
        if self.setting.type is int:
            return IntDistribution(int(self.space.low), int(self.space.high), log=self.space.log)
        return FloatDistribution(self.space.low, self.space.high, log=self.space.log)

    @property
    def points(self) -> list[Any]:
        """Distinct values for a grid: all options, or `GRID_POINTS` evenly spaced of a range."""
        if isinstance(self.space, Choice):
            return list(dict.fromkeys(self.space.options))
        low, high = self.space.low, self.space.high
        shares = [number / (GRID_POINTS - 1) for number in range(GRID_POINTS)]
        values = [
            low * (high / low) ** share if self.space.log else low + (high - low) * share
            for share in shares
        ]
        if self.setting.type is int:
            values = [round(value) for value in values]
        return sorted({min(max(value, low), high) for value in values})  # powers are rounded

    def matters(self, values: Mapping[str, Any], defaults: Settings | None) -> bool:
        """Return True if the setting has an effect beside `values`, else beside `defaults`."""
        when = self.setting.when
        if when is None:
            return True
        return values.get(when.name, getattr(defaults, when.name, None)) in when.values

    def limited(self, highest: float) -> Dimension:
        """Return the dimension with `highest` in place of all larger numbers."""
        space = self.space
        if isinstance(space, Choice):
            options = dict.fromkeys(min(option, highest) for option in space.options)
            return replace(self, space=Choice(tuple(options)))
        return replace(
            self, space=replace(space, low=min(space.low, highest), high=min(space.high, highest))
        )

    def nearest(self, value: Any) -> Any:
        """Return the value of this dimension that is nearest to `value`, which may be itself.

        Without a notion of distance, as for text that is not an option, return the middle one of
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
        """Return the options or the limits as plain values, for the fingerprint of the study."""
        return list(self.space.options) if isinstance(self.space, Choice) else vars(self.space)


@dataclass(frozen=True)
class SearchSpace:
    """Dimensions of a study, and the settings that are fixed in all its trials."""

    dimensions: Mapping[str, Dimension]
    fixed: Mapping[str, Any]

    def suggest(self, trial: Trial, defaults: Settings) -> dict[str, Any]:
        """Return the settings of a trial: the fixed ones, and the suggested ones.

        Conditional settings are omitted unless the setting that they depend on has one of the
        required values.

        Args:
            trial: Optuna's trial, which suggests the values.
            defaults: values of the settings that are neither fixed nor suggested, for conditions.
        """
        return self._choose_values(defaults, lambda dimension: _suggest(trial, dimension))

    def nearest(self, defaults: Settings) -> dict[str, Any]:
        """Return the point of the space that is nearest to `defaults`, without fixed settings.

        Conditional settings whose condition it does not meet are omitted, as in a trial.
        """
        values = self._choose_values(
            defaults, lambda dimension: dimension.nearest(getattr(defaults, dimension.setting.name))
        )
        return {name: value for name, value in values.items() if name in self.dimensions}

    def _choose_values(
        self, defaults: Settings, choose: Callable[[Dimension], Any]
    ) -> dict[str, Any]:
        values = dict(self.fixed)
        for name, dimension in self.dimensions.items():
            if dimension.matters(values, defaults):
                values[name] = choose(dimension)
        return values

    def limited(self, name: str, highest: float) -> SearchSpace:
        """Return the space with `highest` in place of all larger values of a searched number."""
        dimension = self.dimensions[name].limited(highest)
        return replace(self, dimensions={**self.dimensions, name: dimension})

    def describe(self) -> dict[str, Any]:
        """Return dimensions and fixed settings as plain values, for the study's fingerprint."""
        dimensions = {name: dimension.describe() for name, dimension in self.dimensions.items()}
        return {**dimensions, **{f"{name} fixed": value for name, value in self.fixed.items()}}


def build_search_space(
    declared: type[Settings], explicit: Mapping[str, Any], path: str | None
) -> SearchSpace:
    """Return the search space of a model's settings.

    Args:
        declared: settings class, which declares the ranges that are searched.
        explicit: values that the user set, by name, which are fixed; device settings and names that
            `declared` lacks are ignored.
        path: TOML file that replaces declared ranges or fixes settings; None without one.

    Raises:
        UserError: the file is unreadable, or has an unknown setting, or an empty or forbidden
            range; or all settings are fixed.
    """
    by_name = {setting.name: setting for setting in list_settings(declared)}
    dimensions = {
        name: Dimension(each, each.search)
        for name, each in by_name.items()
        if each.search is not None
    }
    fixed = {
        name: value
        for name, value in explicit.items()
        if name in by_name and by_name[name].panel != DEVICE_PANEL
    }
    for name, entry in read_space(path).items():
        if name not in by_name:
            guess = nearest(name, by_name)
            raise UserError(
                f"{path}: {name} is not a setting of this model."
                + (f" Did you mean {guess}?" if guess else "")
            )
        try:
            space = _parse_entry(by_name[name], entry)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        if isinstance(space, Range | Choice):
            dimensions[name] = Dimension(by_name[name], space)
        else:
            fixed.setdefault(name, space)
    searched = {name: dimension for name, dimension in dimensions.items() if name not in fixed}
    if not searched:
        raise UserError(
            "All settings of this model are fixed, so there is nothing to tune. Omit an option, or "
            "use train."
        )
    return SearchSpace(_conditional_last(searched), fixed)


def _conditional_last(dimensions: Mapping[str, Dimension]) -> dict[str, Dimension]:
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


def _parse_entry(setting: Setting, entry: Any) -> Any:
    """Return the range, the choice or the fixed value that a file's entry gives a setting."""
    if isinstance(entry, dict):
        return _parse_range(setting, entry)
    if isinstance(entry, list):
        if not entry:
            raise UserError(f"{setting.name} = [] has no values. Add one or more.")
        return Choice(tuple(dict.fromkeys(_parse_value(setting, value) for value in entry)))
    return _parse_value(setting, entry)


def _parse_range(setting: Setting, entry: dict[str, Any]) -> Range:
    if not {"low", "high"} <= set(entry) <= {"low", "high", "log"} or setting.type not in (
        int,
        float,
    ):
        raise UserError(
            f"{setting.name} has a table with {', '.join(entry) or 'no keys'}. It takes a value, a "
            "list, or for numbers {low = ..., high = ..., log = true}."
        )
    low, high = _parse_value(setting, entry["low"]), _parse_value(setting, entry["high"])
    log = entry.get("log", isinstance(setting.search, Range) and setting.search.log)
    if not isinstance(log, bool):
        raise UserError(f"{setting.name}: log must be true or false, not {log!r}.")
    if low > high:
        raise UserError(
            f"{setting.name}: the range from low = {low} to high = {high} is empty. Exchange them."
        )
    if log and not (low > 0 and math.isfinite(high)):
        raise UserError(f"{setting.name}: a range with log = true must start above 0, not {low}.")
    return Range(low, high, log)


def _parse_value(setting: Setting, value: Any) -> Any:
    value = setting.coerce(value)
    setting.check(value)
    return value
