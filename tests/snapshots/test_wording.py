"""Help texts and messages are those on record, so that a change of wording is read as a diff.

    python -m tests.snapshots.test_wording

records both anew: `help.txt` holds each command's and option's help, `messages.txt` each text that
the package raises, logs or warns with, with the first name of
each inserted expression in braces.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import click
import typer

from eyevsai.cli.main import build_app
from eyevsai.models.factory import FAMILIES
from tests.conftest import ROOT

HERE = Path(__file__).parent
MODELS = (["train"], *(["train", "--model", family] for family in FAMILIES))
# functions whose arguments users read
SPEAKERS = {"debug", "info", "warning", "error", "warn", "print", "echo", "confirm"}


def render_help() -> str:
    """Return the help of every command, then of the options that other families add."""
    lines: dict[str, None] = {}
    for arguments in MODELS:
        command = typer.main.get_command(build_app(arguments))
        lines |= dict.fromkeys(_describe_command(command, "eyevsai"))
    return "\n".join(lines) + "\n"


def _describe_command(command: click.Command, name: str) -> Iterator[str]:
    yield f"{name}: {_one_line(command.help)}"
    for parameter in command.params:
        words = "/".join([*parameter.opts, *parameter.secondary_opts])
        yield f"{name} {words}: {_one_line(getattr(parameter, 'help', None))}"
    for word, each in sorted(getattr(command, "commands", {}).items()):
        yield from _describe_command(each, f"{name} {word}")


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def render_messages() -> str:
    """Return the texts raised, logged or printed by each module of the package."""
    lines: dict[str, None] = {}
    for path in sorted((ROOT / "eyevsai").rglob("*.py")):
        module = path.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if _is_message(node):
                lines |= dict.fromkeys(f"{module}: {text}" for text in _texts(node))
    return "\n".join(lines) + "\n"


def _is_message(node: ast.AST) -> bool:
    if isinstance(node, ast.Raise):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    return name in SPEAKERS or name.endswith("Error")


def _texts(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.JoinedStr):
        parts = [
            str(each.value) if isinstance(each, ast.Constant) else f"{{{_label(each)}}}"
            for each in node.values
        ]
        yield _one_line("".join(parts))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
        yield _one_line(node.value)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _texts(child)


def _label(node: ast.AST) -> str:
    """Return the first name in the expression of an f-string, such as `path` of `path.stem!r`."""
    names = [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]
    return names[0] if names else ""


def test_help_is_the_one_on_record() -> None:
    assert render_help() == (HERE / "help.txt").read_text(encoding="utf-8")


def test_messages_are_those_on_record() -> None:
    assert render_messages() == (HERE / "messages.txt").read_text(encoding="utf-8")


if __name__ == "__main__":
    (HERE / "help.txt").write_text(render_help(), encoding="utf-8")
    (HERE / "messages.txt").write_text(render_messages(), encoding="utf-8")
