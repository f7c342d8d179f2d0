"""Settings from `--config`: a file, or the settings of a run. Options override its values.

Imports neither torch nor MLflow, unless the source is a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from eyevsai import config
from eyevsai.core.config_file import ListText, Texts, read_config_file, to_text
from eyevsai.core.errors import UserError
from eyevsai.core.legacy_names import rename_settings
from eyevsai.core.loading import loading
from eyevsai.core.logging import configure_logging
from eyevsai.core.paths import expand, is_dir
from eyevsai.core.settings import Setting, as_flag
from eyevsai.models.factory import complete_settings, resolve_model
from eyevsai.workflows.command_options import check_other_commands

RUN = "run:"  # beginning of a source that is a run
OF_MACHINE = ("state_dir", "cache_dir")  # folders that have no effect on results
MODEL, VARIATION = "model", "variation"

Values = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Settings of a file or a run: texts by name of the setting, None for a null."""

    label: str  # as the user wrote it
    texts: Texts

    @contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Add the source and the name of a setting to a UserError of the block."""
        try:
            yield
        except UserError as error:
            raise UserError(f"{self.label}, {name}: {error}") from error


def with_config(
    values: Mapping[str, Any],
    command: str,
    settings_of: Callable[[str, str | None], Sequence[Setting]],
) -> Values:
    """Return explicit values completed with those of their `config`, if it is set.

    Args:
        values: explicit values by setting name.
        command: name of the command.
        settings_of: function from model and variation to the settings of the command.

    Raises:
        UserError: the source cannot be read, has an unknown setting, or a value that is not
            allowed. The message names the source, the setting and the value.
    """
    if values.get("config") is None:
        return dict(values)
    source = read_source(values["config"], command)
    chosen = {} if command == "train-all" else _choose_model(source, values)
    model, variation = chosen.get(MODEL, config.ModelChoice().model), chosen.get(VARIATION)
    settings = {setting.name: setting for setting in settings_of(model, variation)}
    if command == "train":
        source = _choose_schedule(source, values)
    _check_names(source, settings, chosen, command)
    completed = dict(chosen)
    for name, text in source.texts.items():
        if not _is_overridden(name, values):
            with source.naming(name):
                completed[name] = _parse(settings[name], text)
    return completed | dict(values)


def find_model(values: Mapping[str, Any], command: str) -> Values:
    """Return model and variation, by setting name, of explicit values and their `config`.

    Raises:
        UserError: the source cannot be read, or names a model that does not exist.
    """
    return _choose_model(read_source(values["config"], command), values)


def read_source(text: object, command: str) -> Source:
    """Return the settings that `--config` names: of a file, or of a run for `run:ID`.

    Raises:
        UserError: the file or the run cannot be read, or the run is one of another command.
    """
    label = str(text)
    if not label.startswith(RUN):
        return Source(label, read_config_file(label))
    configure_logging()
    with loading("mlflow"):
        from eyevsai.workflows.run_config import read_run_config

    stored = read_run_config(label.removeprefix(RUN), command)
    # runs of other commands store only what the user set: what they lack has today's default
    stored = complete_settings(stored) if command == "train" else rename_settings(stored)
    texts = {name: to_text(value) for name, value in stored.items() if _is_kept(name, value)}
    if command == "train":  # the settings of a study are among the others
        texts["tuned"] = config.NEVER_TUNED
    return Source(label, texts)


def _is_kept(name: str, value: Any) -> bool:
    """Return False for a folder of the run's machine that this call must not use."""
    return name not in OF_MACHINE and (name != "data_dir" or is_dir(expand(value)))


def _is_overridden(name: str, values: Mapping[str, Any]) -> bool:
    """Return True if options determine a setting; `data` of the source would hide `--dataset`."""
    return name in values or name in (MODEL, VARIATION) or (name == "data" and "dataset" in values)


def _choose_model(source: Source, values: Mapping[str, Any]) -> Values:
    """Return model and variation, by setting name, as far as an option or the source sets them.

    `--model FAMILY/VARIATION` replaces the source's variation, and `--variation` the one in the
    source's model.

    Raises:
        UserError: the model or the variation does not exist, or they contradict each other.
    """
    names = (MODEL, VARIATION)
    stored = {name: text for name in names if (text := source.texts.get(name))}
    options = {name: values[name] for name in names if values.get(name) is not None}
    if MODEL in stored:
        with source.naming(VARIATION if VARIATION in stored else MODEL):
            model = resolve_model(stored[MODEL], stored.get(VARIATION))
        is_named = VARIATION in stored or "/" in stored[MODEL]
        stored = {MODEL: model.family} | ({VARIATION: model.variation} if is_named else {})
    if "/" in str(options.get(MODEL, "")):
        stored.pop(VARIATION, None)
    chosen = stored | options
    try:
        resolve_model(chosen.get(MODEL, config.ModelChoice().model), chosen.get(VARIATION))
    except UserError as error:
        if stored.keys() <= options.keys():
            raise
        name = VARIATION if VARIATION in stored.keys() - options.keys() else MODEL
        hint = f" An option {as_flag(name)} replaces the value in {source.label}."
        raise UserError(f"{source.label}, {name}: {error}{hint if options else ''}") from None
    return chosen


def _choose_schedule(source: Source, values: Mapping[str, Any]) -> Source:
    """Return the settings of a timed run with `replay`, unless options set another length.

    A new `--minutes` replaces the number of epochs of a run, and a number of epochs replaces its
    `minutes`. The settings of a file are returned unchanged.
    """
    if not source.label.startswith(RUN):
        return source
    texts = {name: text for name, text in source.texts.items() if name != "replay"}
    if values.get("minutes") is not None:
        texts = {name: text for name, text in texts.items() if name not in config.PLANNED}
    elif any(values.get(name) is not None for name in config.EPOCHS):
        texts.pop("minutes", None)
    elif texts.get("minutes") is not None:
        texts["replay"] = source.label.removeprefix(RUN)
    return replace(source, texts=texts)


def _check_names(
    source: Source, settings: Mapping[str, Setting], chosen: Values, command: str
) -> None:
    """Raise UserError, with the nearest match, if the command has no setting of a name."""
    family = str(chosen.get(MODEL, config.ModelChoice().model)).partition("/")[0]
    for name in source.texts:
        with source.naming(name):
            if name == "config":
                raise UserError("A file cannot name another source of settings. Remove the line.")
            if command == "tune":
                config.check_no_train_settings([name])
            if command == "train-all":
                config.check_setting_names([name], list(settings.values()), command)
            elif name not in settings:
                check_other_commands(name, command, settings)
                raise config.unknown_setting_error(name, family, settings, command)


def _parse(setting: Setting, text: str | None) -> Any:
    """Return the value of a setting's text; raise UserError if it is not allowed."""
    if text is None:
        setting.check(None)
        return None
    if isinstance(text, ListText) and setting.type is not str:
        raise UserError(f"{setting.flag} takes one value, not a list. Remove the brackets.")
    if text == "" and setting.rejects_empty:
        raise setting.empty_value_error()
    return setting.parse(text)
