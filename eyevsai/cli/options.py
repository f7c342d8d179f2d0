"""From declared settings to Typer's flags."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import typer

from eyevsai import config
from eyevsai.cli.completion import completer_of
from eyevsai.cli.parsing import BOOL, SWITCHES, Command, Group, positional_arguments, with_hyphens
from eyevsai.core.errors import UserError
from eyevsai.core.settings import Setting, Settings, list_settings
from eyevsai.data.catalog import PRESETS
from eyevsai.data.settings import DownloadSettings
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.executors.settings import TrainAllSettings
from eyevsai.formats.settings import ExportSettings
from eyevsai.models.factory import resolve_model
from eyevsai.registry.settings import CleanupSettings, PromoteSettings
from eyevsai.reports.settings import ReportSettings
from eyevsai.tuning.settings import TuneSettings

S = TypeVar("S", bound=Settings)
# of commands whose options depend on the model: `config` reports what is none of them
UNPARSED = {"ignore_unknown_options": True, "allow_extra_args": True}
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def settings_of_command(arguments: Sequence[str]) -> tuple[Setting, ...]:
    """The settings that a command line's --model and --variation bring with them.

    A model that does not exist is reported when the command runs, so that help still works.
    """
    model, variation = (
        _peek_option(arguments, "model"),
        _peek_option(arguments, "variation") or None,
    )
    helping = "--help" in arguments
    try:
        return config.train_settings(
            model or (None if helping else config.ModelChoice().model), variation
        )
    except UserError:
        return config.shared_settings()


def check_no_train_options(arguments: Sequence[str]) -> None:
    """Raises UserError for flags of `train` that a study has no use for."""
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    config.check_no_train_settings(flag.lstrip("-").replace("-", "_") for flag in flags)


def _peek_option(arguments: Sequence[str], name: str) -> str | None:
    """The value of `--name` in a command line that is not parsed yet."""
    taking = {setting.flag for setting in config.shared_settings() if setting.type is not bool}
    for place, word in positional_arguments(arguments, taking):
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
        if word == f"--{name}" and place + 1 < len(arguments):
            return arguments[place + 1]
    return None


def pick_settings(cls: type[Settings], *names: str) -> tuple[Setting, ...]:
    """The named settings of a settings dataclass."""
    return tuple(setting for setting in list_settings(cls) if setting.name in names)


def with_options(command: Callable[..., None], settings: Sequence[Setting]) -> Callable[..., None]:
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
            setting.flag,
            parser=_parser_of(setting),
            metavar=_metavar(setting),
            help=_help(setting),
            show_default=False,
            rich_help_panel=setting.panel,
            autocompletion=completer_of(setting),
        )
        annotation = Annotated[Any, option]
        parameters.append(
            inspect.Parameter(
                setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
            )
        )

    def flagged(**values: Any) -> None:
        """Call the command with its own arguments and the options that were given."""
        command(
            **{
                name: value
                for name, value in values.items()
                if name not in names or value is not None
            }
        )

    flagged.__name__, flagged.__doc__ = command.__name__, command.__doc__
    flagged.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flagged


def _parser_of(setting: Setting) -> Callable[[str], Any]:
    """Return the parser of a flag: that of its setting, but for text that is empty where that means
    nothing.
    """

    def parse(text: str) -> Any:
        """Return the value that `text` stands for."""
        if text == "" and setting.rejects_empty:
            raise setting.empty_value_error()
        return setting.parse(text)

    return parse


def entry_points() -> dict[str, tuple[Setting, ...]]:
    """Return the settings of each entry point of MLproject, which declares those that are marked as
    parameters.
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
    }
    trained = {"train": train, "tune": (*train, *list_settings(TuneSettings))}
    return trained | {name: list_settings(part) for name, part in declared.items()}


def drop_empty(entry: str, arguments: Sequence[str]) -> list[str]:
    """Return the words of an entry point without its empty parameters: `mlflow run` passes those
    that were left out.
    """
    optional = {
        each.flag for each in entry_points()[entry] if each.parameter and each.default is None
    }
    words, place = list[str](), 0
    while place < len(arguments):
        if with_hyphens(arguments[place]) in optional and list(
            arguments[place + 1 : place + 2]
        ) == [""]:
            place += 2
        else:
            words.append(arguments[place])
            place += 1
    return words


def finish(app: typer.Typer) -> None:
    """Lets all commands and groups read words as `eyevsai.cli.parsing` has it, and shows the
    switches in each one's help.
    """
    app.info.cls = Group
    for info in app.registered_commands:
        if info.callback is not None:
            info.callback, info.cls = _showing_switches(info.callback), Command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            finish(group.typer_instance)


def _showing_switches(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with flags for help and for shells: `Command` takes them out of a line before it is
    parsed.
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


def pop_settings(cls: type[S], given: dict[str, Any]) -> S:
    """The settings that a command declares for itself, taken out of `given`."""
    names = [setting.name for setting in list_settings(cls) if setting.name in given]
    return config.compose(cls, {name: given.pop(name) for name in names})


def merge_named(word: str | None, given: dict[str, Any], name: str) -> dict[str, Any]:
    """`given` with the setting `name` that was typed without its flag.

    Raises:
        UserError: the flag says something else.
    """
    if word is None:
        return given
    if given.get(name, word) != word:
        raise UserError(
            f"{word!r} and --{name} {given[name]!r} contradict each other: leave one out."
        )
    return given | {name: word}


def argument(setting: Setting, name: str, text: str = "") -> Any:
    """A value of `setting` that is typed without its flag, and is called `name`."""
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


def check_extra_arguments(context: Any, given: dict[str, Any]) -> None:
    """Raise UserError for arguments that the parser could not use: options of other models, unknown
    options, words without an option.
    """
    if not context.args:
        return
    model = given.get("model", config.ModelChoice().model)
    # an unknown model is reported first
    resolved = resolve_model(model, given.get("variation"))
    known = [param.name for param in context.command.params]
    names = {extra: extra.lstrip("-").partition("=")[0].replace("-", "_") for extra in context.args}
    unknown = (extra for extra in context.args if extra.startswith("--"))
    flag = next((extra for extra in unknown if names[extra] not in known), None)
    if flag is None:
        raise UserError(
            f"{context.args[0]!r} belongs to no flag. See `{context.command_path} --help`."
        )
    raise config.unknown_setting(names[flag], resolved.family, known, context.info_name)
