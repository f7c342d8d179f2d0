"""Help of commands as plain text, in sections.

Typer's panels load rich, markdown and pygments, which takes longer than everything else in
`--help`. Sections are those of the panels: the attribute `rich_help_panel` of commands and options.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import typer

# section of the options that people change first, which comes before all others
MOST_USED = "Most used"
MAX_HELP = 1000  # characters of the help of a command in a list


def write_parameters(formatter: Any, context: Any, parameters: Iterable[Any]) -> None:
    """Write a section for each group of arguments and options; `MOST_USED` after the arguments.

    Args:
        formatter: Click's help formatter.
        context: Click's context of the command.
        parameters: Click's parameters of the command.
    """
    rows = [(param, param.get_help_record(context)) for param in sorted(parameters, key=_rank)]
    _write(
        formatter,
        [
            (
                _section(param, f"{param.param_type_name.title()}s"),
                _name(param, record[0]),
                record[1],
            )
            for param, record in rows
            if record is not None  # hidden
        ],
    )


def write_commands(formatter: Any, commands: Iterable[tuple[str, Any]]) -> None:
    """Write a section for each group of commands, with the first sentence of their help.

    Args:
        formatter: Click's help formatter.
        commands: names and Click's commands.
    """
    _write(
        formatter,
        [
            (_section(command, "Commands"), name, command.get_short_help_str(MAX_HELP))
            for name, command in commands
            if not command.hidden
        ],
    )


def _rank(param: Any) -> int:
    """Return the position of a parameter's section relative to those of other parameters."""
    if param.param_type_name == "argument":
        return 0
    return 1 if _section(param, "") == MOST_USED else 2


def _section(item: Any, default: str) -> str:
    panel = getattr(item, "rich_help_panel", None)
    return panel if isinstance(panel, str) else default


def _name(param: Any, name: str) -> str:
    """Return an option as Typer writes it, or an argument without the type that Typer adds."""
    return name if param.param_type_name == "option" else str(param.metavar)


def _write(formatter: Any, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write rows of section, name and text."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for section, name, text in rows:
        sections.setdefault(section, []).append((name, text))
    for section, entries in sections.items():
        with formatter.section(_style(section, "green", bold=True)):
            formatter.write_dl([(_style(name, "cyan"), text) for name, text in entries])


def _style(text: str, color: str, bold: bool | None = None) -> str:
    """Return a text with codes for a terminal, which Click removes from all other output."""
    return text if os.environ.get("NO_COLOR") else typer.style(text, fg=color, bold=bold)
