"""What a shell completes a flag's value to, from what is quickly read: no torch, no mlflow, no
store.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import typer

from eyevsai import config
from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice, Setting
from eyevsai.data.catalog import list_datasets
from eyevsai.formats.factory import ALL, FORMATS
from eyevsai.models.factory import FAMILIES, get_family

# of a flag, by the values of those typed before it
Values = Callable[[dict[str, Any]], Iterable[str]]
Completer = Callable[[typer.Context, str], list[str]]


def completed_words() -> list[str]:
    """The words of the command line that a shell asks about; none when this is no such call."""
    text = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    if "_EYEVSAI_COMPLETE" not in os.environ:
        return []
    try:
        return shlex.split(text)[1:]
    except ValueError:  # a quote that is still open
        return text.split()[1:]


def completer_of(setting: Setting) -> Completer | None:
    """What completes the values of a setting; None where only its user knows them."""
    if isinstance(setting.allowed, Choice):
        options = [str(option) for option in setting.allowed.options]
        return completer(lambda _: options)
    return COMPLETERS.get(setting.name)


def completer(values: Values, *, listed: bool = False) -> Completer:
    """What completes to one of `values`, or, if `listed`, to several with commas."""

    def _complete(context: typer.Context, incomplete: str) -> list[str]:
        before, comma, begun = incomplete.rpartition(",") if listed else ("", "", incomplete)
        try:
            return [
                f"{before}{comma}{value}"
                for value in values(context.params)
                if value.startswith(begun)
            ]
        except (UserError, OSError):  # of what was typed before; the command says it
            return []

    return _complete


def _variations(given: dict[str, Any]) -> Iterable[str]:
    return get_family(given.get("model") or config.ModelChoice().model).variations


def _models(_: dict[str, Any]) -> Iterable[str]:
    return [
        *FAMILIES,
        *(f"{family}/{name}" for family in FAMILIES for name in get_family(family).variations),
    ]


def _datasets(given: dict[str, Any]) -> Iterable[str]:
    root = config.compose_data(
        {"data_dir": given["data_dir"]} if given.get("data_dir") else {}
    ).data_dir
    return list_datasets(Path(root).expanduser())


COMPLETERS = {
    "model": completer(lambda _: FAMILIES),
    "variation": completer(_variations),
    "models": completer(_models, listed=True),
    "dataset": completer(_datasets),
    "datasets": completer(_datasets, listed=True),
    "format": completer(lambda _: [*FORMATS, ALL], listed=True),
    "export": completer(lambda _: FORMATS, listed=True),  # of train-all
}
