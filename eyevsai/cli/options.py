"""Typer options for declared settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer

from eyevsai import config
from eyevsai.cli.completion import find_completer, is_completing
from eyevsai.cli.help import MOST_USED
from eyevsai.cli.parsing import BOOL, SWITCHES, Command, Group, positional_arguments, with_hyphens
from eyevsai.core.call_settings import CallSettings
from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import parse_model
from eyevsai.core.settings import Setting, Settings, as_flag, list_settings
from eyevsai.data.catalog import PRESETS
from eyevsai.data.settings import DownloadSettings
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.executors.settings import TrainAllSettings
from eyevsai.formats.settings import ExportSettings
from eyevsai.models.factory import FAMILIES
from eyevsai.registry.settings import CleanupSettings, PromoteSettings
from eyevsai.reports.settings import ReportSettings
from eyevsai.serving.http.settings import ServeSettings
from eyevsai.tuning.settings import TuneSettings
from eyevsai.workflows.config_source import find_model
from eyevsai.workflows.monitor.settings import MonitorSettings
from eyevsai.workflows.rollout.settings import RolloutSettings
from eyevsai.workflows.watch.settings import WatchSettings

S = TypeVar("S", bound=Settings)
# context of commands whose options depend on the model; `eyevsai.cli.words` rejects others
UNPARSED = {"ignore_unknown_options": True, "allow_extra_args": True}
NO_VALUE = object()  # result of an empty option whose default is not None; None is a missing option
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def peek_settings(arguments: Sequence[str]) -> tuple[Setting, ...]:
    """Return the settings of `train` for the model of an unparsed command line.

    The model is that of --model and --variation, or else of --config. If it does not exist, return
    the shared settings, so that `--help` works; the command itself reports the error.
    """
    model, variation = (
        _peek_option(arguments, "model") or _peek_described(arguments),
        _peek_option(arguments, "variation") or None,
    )
    is_help = "--help" in arguments
    try:
        command = next((name for name in ("train", "tune") if name in arguments), None)
        source = _peek_option(arguments, "config")
        if command and source and not is_completing():
            options = {"config": source, "model": model, "variation": variation}
            chosen = find_model(options, command)
            model, variation = chosen.get("model"), chosen.get("variation")
        return config.train_settings(
            model or (None if is_help else config.ModelChoice().model), variation
        )
    except UserError:
        return config.shared_settings()


def check_no_train_options(arguments: Sequence[str]) -> None:
    """Raise UserError if an argument is an option of `train` that does not apply to `tune`."""
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    config.check_no_train_settings(flag.lstrip("-").replace("-", "_") for flag in flags)


def _peek_option(arguments: Sequence[str], name: str) -> str | None:
    """Return the value of `--name` in an unparsed command line, or None if it is missing."""
    with_value = {setting.flag for setting in config.shared_settings() if setting.type is not bool}
    for index, word in positional_arguments(arguments, with_value):
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
        if word == f"--{name}" and index + 1 < len(arguments):
            return arguments[index + 1]
    return None


def _peek_described(arguments: Sequence[str]) -> str | None:
    """Return the model in an unparsed `describe MODEL`, or None."""
    words = [word for word in arguments if not word.startswith("-")]
    models = [word for word in words if word.partition("/")[0] in FAMILIES]
    return models[0] if words[:1] == ["describe"] and models else None


def pick_settings(cls: type[Settings], *names: str) -> tuple[Setting, ...]:
    """Return the named settings of a settings dataclass, in the order of declaration."""
    return tuple(setting for setting in list_settings(cls) if setting.name in names)


def with_options(
    command: Callable[..., None], settings: Sequence[Setting], most_used: Sequence[str] = ()
) -> Callable[..., None]:
    """Return a function with the parameters of `command` and an option for each setting.

    The function calls `command` with its own parameters, and with the values of the options that
    were set. Options that were not set are omitted: `config` adds the defaults.

    Args:
        command: the function.
        settings: settings of the options.
        most_used: names of settings that the help lists first, in this order; those that are not in
            `settings` are skipped.
    """
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    names = {setting.name for setting in settings}
    for setting in _with_first(settings, most_used):
        option = typer.Option(
            setting.flag,
            parser=_parser_of(setting),
            metavar=_metavar(setting),
            help=_help(setting),
            show_default=False,
            rich_help_panel=MOST_USED if setting.name in most_used else setting.panel,
            autocompletion=find_completer(setting),
        )
        annotation = Annotated[Any, option]
        parameters.append(
            inspect.Parameter(
                setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
        )

    def flagged(**values: Any) -> None:
        """Call the command with its own arguments and the options that were set."""
        command(
            **{
                name: None if value is NO_VALUE else value
                for name, value in values.items()
                if name not in names or value is not None
            }
        )

    flagged.__name__, flagged.__doc__ = command.__name__, command.__doc__
    flagged.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flagged


def _with_first(settings: Sequence[Setting], names: Sequence[str]) -> list[Setting]:
    """Return the settings with the named ones first, in the order of `names`."""
    rank = {name: position for position, name in enumerate(names)}
    return sorted(settings, key=lambda setting: rank.get(setting.name, len(rank)))


def _parser_of(setting: Setting) -> Callable[[str], Any]:
    """Return the parser of an option, which rejects empty text if the setting does."""

    def parse(text: str) -> Any:
        """Return the value of `text`, or `NO_VALUE`; raise UserError if it is not valid."""
        if text == "" and setting.rejects_empty:
            raise setting.empty_value_error()
        value = setting.parse(text)
        return NO_VALUE if value is None and setting.default is not None else value

    return parse


def entry_points() -> dict[str, tuple[Setting, ...]]:
    """Return the settings of each entry point of MLproject, by the name of the entry point.

    MLproject declares only the settings that are marked with `Parameter`.
    """
    train = config.shared_settings()
    declared: dict[str, type[Settings]] = {
        "evaluate": EvaluateSettings,
        "export": ExportSettings,
        "promote": PromoteSettings,
        "cleanup": CleanupSettings,
        "train_all": TrainAllSettings,
        "report": ReportSettings,
        "data": DownloadSettings,
        "monitor": MonitorSettings,
        "watch": WatchSettings,
        "serve": ServeSettings,
        "rollout": RolloutSettings,
    }
    entries = {name: list_settings(part) for name, part in declared.items()}
    entries["train_all"] += list_settings(CallSettings)
    return {"train": train, "tune": (*train, *list_settings(TuneSettings)), **entries}


def drop_empty(entry: str, arguments: Sequence[str]) -> list[str]:
    """Return the words of an entry point's command line without empty optional parameters.

    `mlflow run` passes an empty text for each parameter that is not set, or its default. Defaults
    are omitted too if `config` is set, because an option would override its value.
    """
    declared = {each.flag: each for each in entry_points()[entry] if each.parameter}
    has_config = bool(_peek_option(arguments, "config"))
    words, index = list[str](), 0
    while index < len(arguments):
        setting = declared.get(with_hyphens(arguments[index]))
        value = "".join(arguments[index + 1 : index + 2])
        is_empty = value == "" and setting is not None and setting.default is None
        if is_empty or (has_config and setting is not None and setting.is_default(value)):
            index += 2
        else:
            words.append(arguments[index])
            index += 1
    return words


def add_switches(app: typer.Typer) -> None:
    """Add the switches to the help of all commands, and use the classes of `eyevsai.cli.parsing`.

    Applies to nested groups too.
    """
    app.info.cls = Group
    for info in app.registered_commands:
        if info.callback is not None:
            info.callback, info.cls = _with_switches(info.callback), Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_switches(group.typer_instance)


def _with_switches(command: Callable[..., None]) -> Callable[..., None]:
    """Return `command` with an option for each switch, for help texts and shell completion.

    The values are ignored: `Command` removes switches from a line before parsing it.
    """

    def switched(**values: Any) -> None:
        command(**{name: value for name, value in values.items() if name not in SWITCHES})

    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in inspect.signature(command, eval_str=True).parameters.values()
    ]
    for name, text in SWITCHES.items():
        annotation = Annotated[
            bool, typer.Option(f"--{name}", help=text, rich_help_panel="Everywhere")
        ]
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation
            )
        )
    switched.__name__, switched.__doc__ = command.__name__, command.__doc__
    switched.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return switched


def pop_settings(cls: type[S], values: dict[str, Any]) -> S:
    """Remove the settings of `cls` from `values`, and return them with defaults for the others."""
    names = [setting.name for setting in list_settings(cls) if setting.name in values]
    return config.compose(cls, {name: values.pop(name) for name in names})


def merge_named(word: str | None, values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return `values` with the value of a setting that was typed as a positional argument.

    Args:
        word: the positional argument, or None if it was not typed.
        values: options that were set, by setting name.
        name: name of the setting.

    Raises:
        UserError: the option of the setting has another value.
    """
    if word is None:
        return values
    if values.get(name, word) != word:
        raise UserError(
            f"{word!r} and {as_flag(name)} {values[name]!r} contradict each other. Omit one of "
            "them."
        )
    return values | {name: word}


def merge_model(word: str | None, values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return `values` with a reference to a model that was typed as a positional argument.

    Args:
        word: the positional argument, or None if it was not typed.
        values: options that were set, by setting name.
        name: name of the setting for such references.

    Raises:
        UserError: the option of the setting names another model.
    """
    if word is None:
        return values
    reference, option = parse_model(word), values.get(name)
    if option is not None and reference.has_same_target(parse_model(option)):
        return values
    if option is not None and name == "name" and reference.name == option:
        return values | {name: word}  # `NAME/3 --name NAME`
    return merge_named(word, values, name)


def argument(setting: Setting, name: str, text: str = "") -> Any:
    """Return a positional argument for `setting` with the metavar `name`.

    The help is `text`, or else that of the setting.
    """
    return typer.Argument(
        metavar=name, parser=lambda word: setting.parse(word, name), help=text or setting.doc
    )


def _metavar(setting: Setting) -> str:
    return {int: "INT", float: "NUMBER", str: "TEXT", bool: BOOL}[setting.type]


def _help(setting: Setting) -> str:
    notes = [str(setting.allowed)] if setting.allowed else []
    notes += [f"env {setting.env}"] if setting.env else []
    notes += [] if setting.default is None else [f"default {_placeholder(setting.default)}"]
    notes += [
        f"{name}: {_placeholder(preset[setting.name])}"
        for name, preset in PRESETS.items()
        if setting.name in preset
    ]
    return f"{setting.doc} ({'; '.join(notes)})" if notes else setting.doc


def _placeholder(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
