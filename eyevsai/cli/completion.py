"""Shell completion of option values.

Completions must be fast: they import neither torch nor mlflow, and do not open the store.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable
from typing import Any

import typer

from eyevsai import config
from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand
from eyevsai.core.settings import Choice, Setting
from eyevsai.data.catalog import list_datasets
from eyevsai.formats.factory import ALL, FORMATS
from eyevsai.models.factory import FAMILIES, get_family

# function from the options typed so far to the values of an option
Values = Callable[[dict[str, Any]], Iterable[str]]
Completer = Callable[[typer.Context, str], list[str]]


def read_completion_line() -> list[str]:
    """Return the words after `eyevsai` on the command line that a shell is completing.

    The shell passes the line in environment variables. Return [] if the process was not started for
    completion.
    """
    text = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    if not is_completing():
        return []
    try:
        return shlex.split(text)[1:]
    except ValueError:  # unclosed quote
        return text.split()[1:]


def is_completing() -> bool:
    """Return True if a shell started this process to complete a command line."""
    return "_EYEVSAI_COMPLETE" in os.environ


def find_completer(setting: Setting) -> Completer | None:
    """Return the completer of a setting's values, or None if the values cannot be listed."""
    if isinstance(setting.allowed, Choice):
        options = [str(option) for option in setting.allowed.options]
        return make_completer(lambda _: options)
    return COMPLETERS.get(setting.name)


def make_completer(values: Values, *, is_list: bool = False) -> Completer:
    """Return a completer for one of `values`, or for comma-separated values if `is_list`."""

    def _complete(context: typer.Context, incomplete: str) -> list[str]:
        before, comma, prefix = incomplete.rpartition(",") if is_list else ("", "", incomplete)
        try:
            return [
                f"{before}{comma}{value}"
                for value in values(context.params)
                if value.startswith(prefix)
            ]
        except (UserError, OSError):  # invalid earlier options, which the command itself reports
            return []

    return _complete


def _list_variations(values: dict[str, Any]) -> Iterable[str]:
    return get_family(values.get("model") or config.ModelChoice().model).variations


def _list_models(_: dict[str, Any]) -> Iterable[str]:
    return [
        *FAMILIES,
        *(f"{family}/{name}" for family in FAMILIES for name in get_family(family).variations),
    ]


def _list_dataset_names(values: dict[str, Any]) -> Iterable[str]:
    root = config.compose_data(
        {"data_dir": values["data_dir"]} if values.get("data_dir") else {}
    ).data_dir
    return list_datasets(expand(root))


COMPLETERS = {
    "model": make_completer(lambda _: FAMILIES),
    "variation": make_completer(_list_variations),
    "models": make_completer(_list_models, is_list=True),
    "dataset": make_completer(_list_dataset_names),
    "datasets": make_completer(_list_dataset_names, is_list=True),
    "format": make_completer(lambda _: [*FORMATS, ALL], is_list=True),
    "export": make_completer(lambda _: FORMATS, is_list=True),  # option of train-all
}
