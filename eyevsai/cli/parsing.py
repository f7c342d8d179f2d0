"""Parsing of command lines: normalization of options, and error messages with suggestions.

A word that is the value of the option before it, or that comes after `--`, is never parsed as an
option, even if it starts with hyphens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from eyevsai.cli.help import write_commands, write_parameters
from eyevsai.core.errors import UserError
from eyevsai.core.foreign_words import advise_command, advise_option
from eyevsai.core.logging import set_verbosity
from eyevsai.core.names import choose, nearest
from eyevsai.core.settings import FALSE, TRUE, parse_bool

SWITCHES = {
    "quiet": "Print only the result, warnings and errors.",
    "verbose": "Log more details: which files are read and written, and when.",
    "debug": "Print the traceback of an error.",
}
SWITCH_FLAGS = {f"--{name}": name for name in SWITCHES}
BOOL, TEXT = "BOOL", "TEXT"  # metavars in the help
# Click's class, reached through Typer: some versions of Typer contain their own copy of Click
UsageError = cast(type[Exception], typer.BadParameter.__base__)


@dataclass
class Verbosity:
    """Switches of a command line, before or after the name of the command."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False

    def enable(self, switch: str) -> None:
        """Turn a switch on, and set the verbosity of this process and its child processes.

        Raises:
            UserError: both `quiet` and `verbose` are on.
        """
        setattr(self, switch, True)
        set_verbosity(quiet=self.quiet, verbose=self.verbose)


@dataclass(frozen=True)
class OptionTable:
    """Options of a command, as needed before its line is parsed.

    Attributes:
        with_value: options that require a value.
        boolean: options with an optional value, which is true by default.
        flags: options without a value, each with the one that negates it, or else "".
        takes_arguments: True if the command has positional arguments or subcommands.
        interspersed: True if options can come after positional arguments.
    """

    with_value: Collection[str]
    boolean: Collection[str] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    takes_arguments: bool = False
    interspersed: bool = True


def with_hyphens(token: str) -> str:
    """Return a word with hyphens for underscores: `--weight_decay` becomes `--weight-decay`."""
    return token.replace("_", "-")


def positional_arguments(
    arguments: Sequence[str], with_value: Collection[str]
) -> Iterator[tuple[int, str]]:
    """Yield index and text of each word before `--` that is not the value of an option.

    `with_value` contains the options that require a value.
    """
    is_value = False
    for index, word in enumerate(arguments):
        if word == "--" and not is_value:
            return
        if not is_value:
            yield index, word
        is_value = not is_value and with_hyphens(word) in with_value


def normalize_arguments(
    arguments: Sequence[str], options: OptionTable
) -> tuple[list[str], list[str]]:
    """Return the words of a command line without its switches, and the switches that are on.

    `--flip` becomes `--flip true`, and `--no-flip` becomes `--flip false`. An invalid value as in
    `--flip maybe` is kept, and rejected by the setting later; but if the command takes arguments,
    `--force NAME` becomes `--force true NAME`. Switches and flags can have a value, too: `--debug
    true`, `--json false`, `--json=true`.
    """
    rest, words, switches = list(arguments), [], []
    while rest and rest[0] != "--" and (options.interspersed or rest[0].startswith("-")):
        word = rest.pop(0)
        name, _, truth_value = word.partition("=")
        if with_hyphens(name) in options.flags and truth_value.lower() in TRUE + FALSE:
            word = name
            rest.insert(0, truth_value)
        flag = with_hyphens(word)
        has_truth_value = bool(rest) and rest[0].lower() in TRUE + FALSE
        if flag in options.with_value:
            words += [word, *rest[:1]]
            del rest[:1]
        elif flag in SWITCH_FLAGS:
            is_on = not has_truth_value or parse_bool(rest.pop(0))
            switches += [SWITCH_FLAGS[flag]] if is_on else []
        elif flag in options.flags and has_truth_value:
            chosen = word if parse_bool(rest.pop(0)) else options.flags[flag]
            words += [chosen] if chosen else []
        elif flag in options.boolean:
            has_value = has_truth_value or (
                bool(rest) and not options.takes_arguments and not rest[0].startswith("--")
            )
            words += [word, rest.pop(0) if has_value else "true"]
        elif flag.startswith("--no-") and "--" + flag[5:] in options.boolean:
            words += ["--" + flag[5:], "false"]
        else:
            words.append(word)
    return words + rest, switches


class Command(TyperCommand):
    """Command with normalized options, switches, and error messages with suggestions."""

    # `parse_args` rejects extra arguments, with a better message than Click's. A command that
    # ignores unknown options rejects them itself.
    allow_extra_args = True

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, with metavars and defaults of flags."""
        return _adapt(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of arguments and options in sections."""
        write_parameters(formatter, ctx, self.get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words; raise UserError for unknown options and unexpected arguments."""
        try:
            rest = super().parse_args(ctx, _apply_switches(ctx, args))
        except UsageError as error:
            raise explain(error, ctx) from error
        if rest and not ctx.ignore_unknown_options and not ctx.resilient_parsing:
            names = " ".join(
                _display_name(param) for param in self.params if param.param_type_name == "argument"
            )
            expected = f"takes {names} and options" if names else "takes options only"
            raise UserError(
                f"Unexpected argument {rest[0]!r}. `{ctx.command_path}` {expected}. See "
                f"`{ctx.command_path} --help`."
            )
        return rest


class Group(TyperGroup):
    """Command group, parsed as `Command` is; it prints its help if no command is named."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, as `Command` does."""
        return _adapt(super().get_params(ctx))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of options and commands in sections."""
        write_commands(formatter, ((name, self.commands[name]) for name in self.list_commands(ctx)))
        write_parameters(formatter, ctx, self.get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words up to the command; raise UserError for unknown options."""
        words = _apply_switches(ctx, args)
        if not words and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        try:
            return super().parse_args(ctx, words)
        except UsageError as error:
            raise explain(error, ctx) from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the named command; raise UserError if it does not exist."""
        if not ctx.resilient_parsing and self.get_command(ctx, with_hyphens(args[0])) is None:
            names = [name for name, command in self.commands.items() if not command.hidden]
            if advice := self._advise(ctx, with_hyphens(args[0])):
                raise UserError(f"There is no {ctx.info_name} command {args[0]!r}. {advice}")
            choose(f"{ctx.info_name} command", args[0], names)
        return super().resolve_command(ctx, args)

    def _advise(self, ctx: Any, name: str) -> str | None:
        """Return what to use instead of an unknown command, or None.

        It is a command of another tool, or a command of another group.
        """
        root = ctx.find_root()
        full_name = name if self is root.command else f"{ctx.info_name} {name}"
        if advice := advise_command(full_name):
            return advice
        groups = {"": root.command, **_list_groups(root.command)}
        for group, members in groups.items():
            command = members.commands.get(name)
            if members is not self and command is not None and not command.hidden:
                return f"Use: {' '.join(filter(None, (root.info_name, group, name)))}."
        return None


def _list_groups(root: TyperGroup) -> dict[str, TyperGroup]:
    commands = root.commands.items()
    return {name: command for name, command in commands if isinstance(command, TyperGroup)}


def explain(error: Any, context: Any) -> UserError:
    """Return a UserError for an error of Click's parser, with help or a suggestion.

    Args:
        error: Click's usage error.
        context: Click's context of the command.
    """
    see = f"See `{context.command_path} --help`."
    params = {
        opt: param
        for param in context.command.get_params(context)
        for opt in (*param.opts, *param.secondary_opts)
    }
    flag = getattr(error, "option_name", None)
    if flag in params:
        problem = (
            "takes no value."
            if params[flag].is_flag
            else f"requires a value: {_help(params[flag])}"
        )
        return UserError(f"{flag} {problem} {see}")
    if flag is not None:
        hint = _suggest_option(flag, params, context) or see
        return UserError(f"There is no option {flag} of `{context.command_path}`. {hint}")
    if isinstance(error, typer.BadParameter) and error.param is not None and not error.message:
        return UserError(
            f"`{context.command_path}` requires {_display_name(error.param)}: {_help(error.param)} "
            f"{see}"
        )
    return UserError(f"{error.format_message()} {see}")


def _suggest_option(flag: str, options: Collection[str], context: Any) -> str | None:
    """Return a sentence on what to use instead of an unknown option; None without a suggestion.

    Args:
        flag: the unknown option.
        options: options of the command, as they are typed.
        context: Click's context of the command.
    """
    name = flag.lstrip("-")
    names = sorted({opt.lstrip("-") for opt in options if opt.startswith("--")} | SWITCHES.keys())
    settings = [each.replace("-", "_") for each in names]
    if advice := advise_option(name.replace("-", "_"), settings, context.info_name):
        return advice
    if guess := nearest(name, names):
        return f"Did you mean --{guess}?"
    root = context.find_root()
    for command in root.command.commands.values():
        if not command.hidden and any(flag in param.opts for param in command.params):
            return f"It is an option of `{root.info_name} {command.name}`."
    return None


def _adapt(params: list[Any]) -> list[Any]:
    """Give parameters a metavar, and flags a default: Typer converts None with pydantic, slowly."""
    for param in params:
        if param.param_type_name == "argument":
            param.metavar = param.metavar or param.name.upper()
            continue
        param.metavar = param.metavar or TEXT
        if param.is_flag and param.default is None:
            param.default = False
    return params


def _apply_switches(context: Any, arguments: Sequence[str]) -> list[str]:
    """Turn the switches of a command line on, and return the other words, normalized.

    This happens before parsing, so that the switches apply to parser errors too.
    """
    words, switches = normalize_arguments(arguments, _tabulate_options(context.command))
    if not context.resilient_parsing:
        for switch in switches:
            context.ensure_object(Verbosity).enable(switch)
    return words


def _tabulate_options(command: Any) -> OptionTable:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param not in arguments and not param.is_flag]
    flags = [param for param in command.params if param not in arguments and param.is_flag]
    is_group = isinstance(command, TyperGroup)
    return OptionTable(
        {flag for option in options if option.metavar != BOOL for flag in option.opts},
        {flag for option in options if option.metavar == BOOL for flag in option.opts},
        {opt: next(iter(flag.secondary_opts), "") for flag in flags for opt in flag.opts},
        takes_arguments=is_group or bool(arguments),
        interspersed=not is_group,
    )


def _display_name(param: Any) -> str:
    """Return an option as it is typed, or the metavar of an argument."""
    return str(
        param.opts[0] if param.param_type_name == "option" else param.metavar or param.name.upper()
    )


def _help(param: Any) -> str:
    text = param.help or param.metavar or "text"
    return text if text.endswith(".") else f"{text}."
