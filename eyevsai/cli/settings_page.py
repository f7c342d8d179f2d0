"""Page of all settings: type, default per model, allowed range and search range.

`eyevsai.codegen` writes it to docs/settings.md. Rows are those of the declarations, merged over
the models that have a setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eyevsai import config
from eyevsai.core.settings import Choice, Range, Setting, Settings, list_settings
from eyevsai.data.catalog import PRESETS
from eyevsai.executors.settings import ExecutorSettings, TrainAllSettings
from eyevsai.models.factory import FAMILIES, get_family
from eyevsai.registry.settings import Policy
from eyevsai.rollout.policy import RolloutPolicy
from eyevsai.training.settings import TrainingSettings
from eyevsai.tuning.settings import TuneSettings

TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false"}
COLUMNS = ("setting", "type and allowed values", "default", "search range", "meaning")
SHORT_COLUMNS = ("setting", "type and allowed values", "default", "meaning")
INTRODUCTION = """# Settings

All settings of a training, for all models, and those of the commands that run many trainings.

- **Option**: the setting `weight_decay` is `--weight-decay 0.1` on the command line,
  `-P weight_decay=0.1` under `mlflow run`, and `weight_decay=0.1` in Python.
- **Order**: the command line replaces the file of `--config`, which replaces environment
  variables. These replace the defaults of the dataset, of the preset and of the model, in this
  order.
- **Default**: where models differ, the models follow the value in brackets. *gpu* is the value of
  `--preset gpu`, which is selected where PyTorch finds CUDA. *digits* is the value for the embedded
  dataset.
- **Models**: *the networks* are `deep_v1`, `deep_v2` and `transfer`.
- **Allowed values**: any other value is an error before the training starts.
- **Search range**: the values that `eyevsai tune` tries. A setting without one is tuned only if a
  [file of the search space](tuning.md#what-is-searched) names it.

`eyevsai train --model deep_v2 --help` prints the settings of one family. The options of the other
commands are on the page [all commands](command_reference.md).
"""
TOPICS: Mapping[str, tuple[str, type[Settings]]] = {
    "Tuning": ("Settings of `eyevsai tune` beside those of a training.", TuneSettings),
    "Many models": ("Settings of `eyevsai train-all`.", TrainAllSettings),
    "Executor": ("Settings of `tune` and `train-all` for parallel jobs.", ExecutorSettings),
    "Promotion policy": (
        "Keys of `promotion.toml`; see [what a promotion requires](production.md#what-a-promotion-"
        "requires).",
        Policy,
    ),
    "Rollout policy": (
        "Keys of `rollout.toml`; see [rolling out a version](rollout.md).",
        RolloutPolicy,
    ),
}


@dataclass(frozen=True)
class Row:
    """One setting, with its declaration in each model that lists it in one panel."""

    by_model: Mapping[str, Setting]  # by family/variation

    @property
    def setting(self) -> Setting:
        """The declaration of the first model, whose name, type and panel are those of all."""
        return next(iter(self.by_model.values()))


def render_settings() -> str:
    """Return the text of docs/settings.md below its first line."""
    rows = _list_rows()
    panels = list(dict.fromkeys(row.setting.panel for row in rows))
    text = INTRODUCTION
    for panel in panels:
        members = [row for row in rows if row.setting.panel == panel]
        models = _name_models(model for row in members for model in row.by_model)
        text += f"\n## {_title(panel)}\n\nSettings of {models}.\n\n{_render_head(COLUMNS)}"
        text += "".join(_render_row(row, models) for row in members)
    for title, (about, cls) in TOPICS.items():
        text += f"\n## {title}\n\n{about}\n\n{_render_head(SHORT_COLUMNS)}"
        text += "".join(_render_short_row(setting) for setting in list_settings(cls))
    return text


def _title(panel: str) -> str:
    return f"`{panel}`" if panel in FAMILIES else panel


def _list_rows() -> list[Row]:
    """Return the settings of `train`: the shared ones, then those of each model."""
    shared = [Row(dict.fromkeys(_list_models(), setting)) for setting in _shared()]
    rows: dict[tuple[str, str], dict[str, Setting]] = {}
    for model, cls in _list_models().items():
        for setting in list_settings(cls):
            rows.setdefault((setting.panel, setting.name), {})[model] = setting
    return [*shared, *map(Row, rows.values())]


def _shared() -> Sequence[Setting]:
    """Return the shared settings with those of one panel together."""
    settings = config.shared_settings()
    panels = list(dict.fromkeys(setting.panel for setting in settings))
    return sorted(settings, key=lambda setting: panels.index(setting.panel))


def _list_models() -> dict[str, type[Settings]]:
    """Return the settings class of each `family/variation`."""
    return {
        f"{family}/{name}": variation.settings
        for family in FAMILIES
        for name, variation in get_family(family).variations.items()
    }


def _name_models(models: Iterable[str]) -> str:
    """Return names of models as text; a family stands for all of its variations."""
    names, chosen, declared = list[str](), set(models), _list_models()
    if chosen == set(declared):
        return "all models"
    if chosen == {name for name, cls in declared.items() if issubclass(cls, TrainingSettings)}:
        return "the networks"
    for family in FAMILIES:
        variations = [f"{family}/{name}" for name in get_family(family).variations]
        is_whole = chosen.issuperset(variations)
        names += [family] if is_whole else [each for each in variations if each in chosen]
    return ", ".join(f"`{name}`" for name in names)


def _render_head(columns: Sequence[str]) -> str:
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"


def _render_row(row: Row, models_of_panel: str) -> str:
    models = _name_models(row.by_model)
    note = "" if models == models_of_panel else f" Of {models}."
    allowed = {model: _format_type(each) for model, each in row.by_model.items()}
    search = {model: _format_search(each.search) for model, each in row.by_model.items()}
    docs = {model: _describe(each) for model, each in row.by_model.items()}
    cells = [
        f"`{row.setting.name}`",
        _merge(allowed),
        _format_defaults(row),
        _merge(search),
        _merge(docs) + note,
    ]
    return f"| {' | '.join(map(_escape, cells))} |\n"


def _render_short_row(setting: Setting) -> str:
    cells = [
        f"`{setting.name}`",
        _format_type(setting),
        _format_value(setting.default),
        _describe(setting),
    ]
    return f"| {' | '.join(map(_escape, cells))} |\n"


def _format_defaults(row: Row) -> str:
    """Return the default of each model, and those of the preset gpu and of the digits."""
    name = row.setting.name
    parts = [_merge({model: _format_value(each.default) for model, each in row.by_model.items()})]
    gpu = {model: value for model in row.by_model if (value := _preset_value(model, name))}
    parts += [f"gpu: {_merge(gpu)}"] if gpu else []
    parts += [
        f"{dataset}: {_format_value(values[name])}"
        for dataset, values in PRESETS.items()
        if name in values
    ]
    return "<br>".join(parts)


def _preset_value(model: str, name: str) -> str | None:
    family, _, variation = model.partition("/")
    preset = get_family(family).variations[variation].presets.get("gpu", {})
    return _format_value(preset[name]) if name in preset else None


def _merge(texts: Mapping[str, str]) -> str:
    """Return a text by model as one text: alone if all are equal, else with their models."""
    models: dict[str, list[str]] = {}
    for model, text in texts.items():
        models.setdefault(text, []).append(model)
    if len(models) == 1:
        return next(iter(models))
    return "<br>".join(
        f"{text or 'none'} ({_name_models(names)})" for text, names in models.items()
    )


def _format_type(setting: Setting) -> str:
    """Return the type of a setting with its allowed range, or its allowed values."""
    if isinstance(setting.allowed, Choice):
        return _format_space(setting.allowed)
    space = _format_space(setting.allowed)
    return f"{TYPES[setting.type]}, {space}" if space else TYPES[setting.type]


def _format_value(value: Any) -> str:
    if value is None:
        return "not set"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _format_space(space: Range | Choice | None) -> str:
    if isinstance(space, Choice):
        return ", ".join(map(_format_value, space.options))
    return "" if space is None else str(space)


def _format_search(space: Range | Choice | None) -> str:
    is_log = isinstance(space, Range) and space.log
    return _format_space(space) + (", logarithmic" if is_log else "")


def _describe(setting: Setting) -> str:
    text = setting.doc
    if setting.when is not None:
        values = " or ".join(f"`{value}`" for value in setting.when.values)
        text += f" Only if `{setting.when.name}` is {values}."
    return text + (f" Environment variable: `{setting.env}`." if setting.env else "")


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")
