"""Page of all commands with their arguments and options, which `eyevsai.codegen` writes.

The texts are those of `--help`. The options of `train` that depend on the model are left to the
page of settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from eyevsai import config
from eyevsai.cli.main import build_app
from eyevsai.cli.parsing import SWITCHES
from eyevsai.core.settings import as_flag

INTRODUCTION = """# All commands

Every command with its arguments and options, as `--help` prints them.
[Commands by example](commands.md) shows each one in use, and describes exit codes, output and the
[forms of a model's name](commands.md#naming-a-model).

- Hyphens and underscores are equal: `--weight-decay` and `--weight_decay`.
- An option with `BOOL` takes `true` or `false`; without a value it is `true`.
- In brackets: the allowed values, the environment variable, and the default.
- All settings of `train`, `tune` and `train-all` are on the page [settings](settings.md).
"""
SWITCHES_TITLE = "## Options of all commands"
SETTINGS_LINK = "The [settings](settings.md) of a training are options, too."


def render_commands() -> str:
    """Return the text of docs/command_reference.md below its first line."""
    # without its name on the command line, train-all does not list its options
    root = typer.main.get_command(build_app(["train-all"]))
    sections = {_panel(command): list[str]() for _, command in _list_commands(root)}
    for path, command in _list_commands(root):
        sections[_panel(command)].append(_render_command(path, command))
    switches = [(as_flag(name), text) for name, text in SWITCHES.items()]
    text = f"{INTRODUCTION}\n{SWITCHES_TITLE}\n\n{_render_table(switches)}"
    for members in sections.values():
        text += "".join(members)
    return text


def _list_commands(group: Any, path: str = "eyevsai") -> Iterator[tuple[str, Any]]:
    """Yield the words and the command of each visible command, with those of groups."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if isinstance(command, TyperGroup):
            yield from _list_commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _panel(command: Any) -> str:
    panel = getattr(command, "rich_help_panel", None)
    return panel if isinstance(panel, str) else "Commands"


def _render_command(path: str, command: Any) -> str:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    shared = _training_options() if _has_training_options(command) else set[str]()
    rows = [
        (_name(param), param.help or "")
        for param in command.get_params(context)
        if not shared.intersection(param.opts) and param.name not in (*SWITCHES, "help")
    ]
    text = f"\n## {path}\n\n```text\n{usage}\n```\n\n{_paragraphs(command.help)}\n"
    text += f"\n{_render_table(rows)}" if rows else ""
    return text + (f"\n{SETTINGS_LINK}\n" if shared else "")


def _has_training_options(command: Any) -> bool:
    """Return True if the settings of a training are options of a command."""
    flags = {flag for param in command.params for flag in param.opts}
    return as_flag("image_size") in flags


def _training_options() -> set[str]:
    return {setting.flag for setting in config.all_train_settings()}


def _name(param: Any) -> str:
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    words = ", ".join([*param.opts, *param.secondary_opts])
    return words if param.is_flag else f"{words} {param.metavar}"


def _paragraphs(text: str | None) -> str:
    """Return a help text with one line per paragraph."""
    blocks = (text or "").strip().split("\n\n")
    return "\n\n".join(" ".join(block.split()) for block in blocks)


def _render_table(rows: list[tuple[str, str]]) -> str:
    cells = [(f"`{name}`", _paragraphs(text).replace("|", "\\|")) for name, text in rows]
    lines = [f"| {name} | {text} |\n" for name, text in cells]
    return "| argument or option | meaning |\n|---|---|\n" + "".join(lines)
