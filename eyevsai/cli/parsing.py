"""What people type, read as they mean it: which words are flags, which are data, what to say of one
that is neither.

A word that is the value of the flag before it, or that stands after `--`, is data, whatever it
looks like.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from eyevsai.core.errors import UserError
from eyevsai.core.logging import set_verbosity
from eyevsai.core.names import choose, nearest
from eyevsai.core.settings import FALSE, TRUE, parse_bool

SWITCHES = {
    "quiet": "Say nothing while it works: only the result, and what is wrong.",
    "verbose": "Say more: what is read and written, where, and when.",
    "debug": "Show the traceback of an error.",
}
SWITCH_FLAGS = {f"--{name}": name for name in SWITCHES}
BOOL = "BOOL"  # how help shows a setting that is true or false
# Click's, which some versions of Typer bring along
UsageError = cast(type[Exception], typer.BadParameter.__base__)


@dataclass
class Verbosity:
    """The switches of one command line, wherever they stand in it."""

    quiet: bool = False
    verbose: bool = False
    debug: bool = False

    def enable(self, switch: str) -> None:
        """Turns a switch on.

        Raises:
            UserError: it contradicts one that is on.
        """
        setattr(self, switch, True)
        set_verbosity(quiet=self.quiet, verbose=self.verbose)


@dataclass(frozen=True)
class OptionTable:
    """What is to be known of a command's flags before its line is parsed."""

    taking: Collection[str]  # flags with a value
    booleans: Collection[str] = ()  # those that are true when they have none
    takes_names: bool = False  # words without a flag mean something
    goes_on: bool = True  # flags stand behind such words, too


def with_hyphens(token: str) -> str:
    """`--weight_decay` and `--weight-decay` are one flag."""
    return token.replace("_", "-")


def positional_arguments(
    arguments: Sequence[str], taking: Collection[str]
) -> Iterator[tuple[int, str]]:
    """Places of the words that are no flag's value and stand before `--`, and the words."""
    is_value = False
    for place, word in enumerate(arguments):
        if word == "--" and not is_value:
            return
        if not is_value:
            yield place, word
        is_value = not is_value and with_hyphens(word) in taking


def normalize_arguments(
    arguments: Sequence[str], flags: OptionTable
) -> tuple[list[str], list[str]]:
    """The words of a command line without its switches, and the switches that are on.

    `--flip` is spelled as `--flip true`, `--no-flip` as `--flip false`. `--flip maybe` stays, which
    the setting refuses, but not `--force NAME` of a command that takes names. A switch may have a
    value: `--debug true`.
    """
    rest, spelled, switches = list(arguments), [], []
    while rest and rest[0] != "--" and (flags.goes_on or rest[0].startswith("-")):
        word = rest.pop(0)
        flag = with_hyphens(word)
        said = bool(rest) and rest[0].lower() in TRUE + FALSE
        if flag in flags.taking:
            spelled += [word, *rest[:1]]
            del rest[:1]
        elif flag in SWITCH_FLAGS:
            switches += [SWITCH_FLAGS[flag]] if not said or parse_bool(rest.pop(0)) else []
        elif flag in flags.booleans:
            has_value = said or (
                bool(rest) and not flags.takes_names and not rest[0].startswith("--")
            )
            spelled += [word, rest.pop(0) if has_value else "true"]
        elif flag.startswith("--no-") and "--" + flag[5:] in flags.booleans:
            spelled += ["--" + flag[5:], "false"]
        else:
            spelled.append(word)
    return spelled + rest, switches


class Command(TyperCommand):
    """A command that reads words as they are meant, and says of one that it cannot use what to do
    instead.
    """

    # so that they are refused below; a command that ignores unknown flags does it itself
    allow_extra_args = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises UserError for words that mean nothing here."""
        try:
            rest = super().parse_args(ctx, _read(ctx, args))
        except UsageError as error:
            raise explain(error, ctx) from error
        if rest and not ctx.ignore_unknown_options and not ctx.resilient_parsing:
            names = " ".join(
                _shown(param) for param in self.params if param.param_type_name == "argument"
            )
            takes = f"takes {names} and flags" if names else "takes flags only"
            raise UserError(
                f"{rest[0]!r} is too much: `{ctx.command_path}` {takes}. See "
                f"`{ctx.command_path} --help`."
            )
        return rest


class Group(TyperGroup):
    """A group of commands, which does the same; with no command it shows its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Raises UserError for flags that mean nothing here."""
        words = _read(ctx, args)
        if not words and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            raise typer.Exit(2)
        try:
            return super().parse_args(ctx, words)
        except UsageError as error:
            raise explain(error, ctx) from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Raises UserError for a command that does not exist."""
        if not ctx.resilient_parsing and self.get_command(ctx, with_hyphens(args[0])) is None:
            known = [name for name, command in self.commands.items() if not command.hidden]
            choose(f"{ctx.info_name} command", args[0], known)
        return super().resolve_command(ctx, args)


def explain(error: Any, context: Any) -> UserError:
    """What the parser found wrong, in words for people."""
    see = f"See `{context.command_path} --help`."
    params = {
        opt: param
        for param in context.command.get_params(context)
        for opt in (*param.opts, *param.secondary_opts)
    }
    flag = getattr(error, "option_name", None)
    if flag in params:
        lacks = (
            "takes no value." if params[flag].is_flag else f"needs a value: {_help(params[flag])}"
        )
        return UserError(f"{flag} {lacks} {see}")
    if flag is not None:
        known = {opt.lstrip("-") for opt in params if opt.startswith("--")} | SWITCHES.keys()
        guess = nearest(flag.lstrip("-"), sorted(known))
        return UserError(
            f"There is no flag {flag} of `{context.command_path}`. "
            f"{f'Did you mean --{guess}?' if guess else see}"
        )
    if isinstance(error, typer.BadParameter) and error.param is not None and not error.message:
        return UserError(
            f"`{context.command_path}` lacks {_shown(error.param)}: {_help(error.param)} {see}"
        )
    return UserError(f"{error.format_message()} {see}")


def _read(context: Any, arguments: Sequence[str]) -> list[str]:
    """The words for the parser; switches are turned on before it finds anything wrong, and hold for
    that too.
    """
    words, switches = normalize_arguments(arguments, _flags_of(context.command))
    if not context.resilient_parsing:
        for switch in switches:
            context.ensure_object(Verbosity).enable(switch)
    return words


def _flags_of(command: Any) -> OptionTable:
    arguments = [param for param in command.params if param.param_type_name == "argument"]
    options = [param for param in command.params if param not in arguments and not param.is_flag]
    is_group = isinstance(command, TyperGroup)
    return OptionTable(
        {flag for option in options if option.metavar != BOOL for flag in option.opts},
        {flag for option in options if option.metavar == BOOL for flag in option.opts},
        takes_names=is_group or bool(arguments),
        goes_on=not is_group,
    )


def _shown(param: Any) -> str:
    """A parameter as a person types it."""
    return str(
        param.opts[0] if param.param_type_name == "option" else param.metavar or param.name.upper()
    )


def _help(param: Any) -> str:
    text = param.help or param.metavar or "text"
    return text if text.endswith(".") else f"{text}."
