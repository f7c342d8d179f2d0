"""From declared settings to Typer's flags, and from what people type to what Typer reads."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from eyevsai import config
from eyevsai.completion import completer_of
from eyevsai.data.catalogue import PRESETS
from eyevsai.engines.settings import EngineSettings
from eyevsai.errors import UserError
from eyevsai.settings import FALSE, TRUE, Setting, Settings, settings_of
from eyevsai.tuning.settings import TuneSettings

SWITCHES = {
    "quiet": "Say nothing while it works: only the result, and what is wrong.",
    "verbose": "Say more: what is read and written, where, and when.",
    "debug": "Show the traceback of an error.",
}
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def settings_of_command(arguments: Sequence[str]) -> tuple[Setting, ...]:
    """The settings that a command line's --model and --variation bring with them.

    A model that does not exist is reported when the command runs, so that help still works.
    """
    model, variation = _peek(arguments, "model"), _peek(arguments, "variation") or None
    helping = "--help" in arguments
    try:
        return config.train_settings(model or (None if helping else config.ModelChoice().model), variation)
    except UserError:
        return config.shared_settings()


def tune_settings(settings: Sequence[Setting]) -> tuple[Setting, ...]:
    """The settings of `tune` for a model whose settings of `train` are given."""
    return (*(setting for setting in settings if setting.name not in config.OF_TRAIN),
            *settings_of(TuneSettings), *settings_of(EngineSettings))  # fmt: skip


def refuse_flags_of_train(arguments: Sequence[str]) -> None:
    """Raises UserError for flags of `train` that a study has no use for."""
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    config.refuse_names_of_train(flag.lstrip("-").replace("-", "_") for flag in flags)


def _peek(arguments: Sequence[str], name: str) -> str | None:
    """The value of `--name` in a command line that is not parsed yet."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"--{name}="):
            return argument.partition("=")[2]
        if argument == f"--{name}" and place + 1 < len(arguments):
            return arguments[place + 1]
    return None


def pick_settings(cls: type[Settings], *names: str) -> tuple[Setting, ...]:
    """The named settings of a settings dataclass."""
    return tuple(setting for setting in settings_of(cls) if setting.name in names)


def with_flags(command: Callable[..., None], settings: Sequence[Setting]) -> Callable[..., None]:
    """`command` with its own parameters and one flag for each setting, which it gets as `**given`.

    A flag that was not typed is not given: defaults are the configuration's business.
    """
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    names = {setting.name for setting in settings}
    for setting in settings:
        option = typer.Option(
            setting.flag, parser=setting.parse, metavar=_metavar(setting), help=_help(setting),
            show_default=False, rich_help_panel=setting.panel, autocompletion=completer_of(setting),
        )  # fmt: skip
        annotation = Annotated[Any, option]
        parameters.append(
            inspect.Parameter(setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        )

    def flagged(**values: Any) -> None:
        command(**{name: value for name, value in values.items() if name not in names or value is not None})

    flagged.__name__, flagged.__doc__ = command.__name__, command.__doc__
    flagged.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flagged


def add_switches(app: typer.Typer) -> None:
    """Shows the switches of all commands in their help, and to shells; `main` takes them out of a line beforehand."""
    for info in app.registered_commands:
        if info.callback is not None:
            info.callback = _with_switches(info.callback)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_switches(group.typer_instance)


def _with_switches(command: Callable[..., None]) -> Callable[..., None]:
    def switched(**values: Any) -> None:
        command(**{name: value for name, value in values.items() if name not in SWITCHES})

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
    ]
    for name, text in SWITCHES.items():
        annotation = Annotated[bool, typer.Option(f"--{name}", help=text, rich_help_panel="Everywhere")]
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation))
    switched.__name__, switched.__doc__ = command.__name__, command.__doc__
    switched.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return switched


def _metavar(setting: Setting) -> str:
    return {int: "INT", float: "NUMBER", str: "TEXT", bool: "BOOL"}[setting.type]


def _help(setting: Setting) -> str:
    notes = [str(setting.allowed)] if setting.allowed else []
    notes += [f"env {setting.env}"] if setting.env else []
    notes += [] if setting.default is None else [f"default {_word(setting.default)}"]
    notes += [f"{name}: {_word(preset[setting.name])}" for name, preset in PRESETS.items() if setting.name in preset]
    return f"{setting.doc} ({'; '.join(notes)})" if notes else setting.doc


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def hyphens(token: str) -> str:
    """`--weight_decay` and `--weight-decay` are one flag."""
    return token.replace("_", "-")


def take_switch(arguments: list[str], switch: str) -> bool:
    """Takes `switch`, or `switch true` as `mlflow run -P` spells it, out of a command line."""
    if switch not in arguments:
        return False
    place = arguments.index(switch)
    word = (arguments[place + 1 : place + 2] or [""])[0].lower()
    del arguments[place : place + (2 if word in TRUE + FALSE else 1)]
    return word not in FALSE


def spell_out_booleans(arguments: list[str], settings: Sequence[Setting], *, takes_names: bool) -> None:
    """`--flip` becomes `--flip true` and `--no-flip` `--flip false`, in place; `--flip false` stays.

    So does `--flip maybe`, which the setting refuses, but not `--force NAME` of a command that `takes_names`. What
    looks like a flag and is the value of another one, such as a reason, is left alone.
    """
    flags = {setting.flag for setting in settings if setting.type is bool}
    taking = {setting.flag for setting in settings} - flags
    for place in range(len(arguments) - 1, -1, -1):
        flag, after = hyphens(arguments[place]), (arguments[place + 1 : place + 2] or ["--"])[0]
        if place and hyphens(arguments[place - 1]) in taking:
            continue
        if flag in flags and (takes_names or after.startswith("--")) and after.lower() not in TRUE + FALSE:
            arguments.insert(place + 1, "true")
        elif flag.startswith("--no-") and "--" + flag[5:] in flags:
            arguments[place : place + 1] = ["--" + flag[5:], "false"]
