"""Words of a command line that its parser left over: a folder or model without option, mistakes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from eyevsai import config
from eyevsai.cli.options import merge_named
from eyevsai.core.errors import UserError
from eyevsai.core.foreign_words import advise_option
from eyevsai.core.paths import expand, is_dir
from eyevsai.core.settings import as_flag
from eyevsai.core.shell import quote
from eyevsai.data.catalog import DESCRIPTIONS
from eyevsai.models.factory import FAMILIES, get_family, resolve_model
from eyevsai.workflows.command_options import check_other_commands

DASHES = "-\u2013\u2014"  # text editors replace hyphens by longer dashes


def take_folder(context: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` with the folder of images that was typed without `--data`, if there is one.

    Args:
        context: Typer's context of the command; the folder is removed from its extra arguments.
        values: options that were set, by setting name.

    Raises:
        UserError: --data has another value.
    """
    if len(context.args) != 1 or not expand(context.args[0]).is_dir():
        return values
    return merge_named(context.args.pop(), values, "data")


def take_model(context: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` with the model that was typed without `--model`, if there is one.

    Args:
        context: Typer's context of the command; the model is removed from its extra arguments.
        values: options that were set, by setting name.

    Raises:
        UserError: --model has another value.
    """
    if len(context.args) != 1 or not is_model_name(context.args[0]):
        return values
    return merge_named(context.args.pop(), values, "model")


def is_model_name(word: str) -> bool:
    """Return True for a family, a variation, or `family/variation` even if it does not exist."""
    return word.partition("/")[0] in FAMILIES or _find_family(word) is not None


def _find_family(variation: str) -> str | None:
    """Return the first family with a variation of this name, or None."""
    families = (each for each in FAMILIES if variation in get_family(each).variations)
    return next(families, None)


def _explain_word(word: str, values: Mapping[str, Any]) -> str:
    """Return a sentence on a word without an option, with a space after it; empty if unknown."""
    for name, value in values.items():
        if isinstance(value, str) and value.startswith("--"):
            return f"{as_flag(name)} requires a value, and took {value} as such. "
    if is_model_name(word):
        family = _find_family(word)
        return f"For a model: --model {f'{family}/{word}' if family else word}. "
    if word in DESCRIPTIONS:
        return f"For a dataset: --dataset {word}. "
    return "It is not a folder of images. "


def _explain_option(word: str, options: Collection[str], command: str) -> str:
    """Return a sentence on an option without `--`, with a space after it; empty for other words.

    Args:
        word: the word: `epochs=3`, as Ultralytics takes options, or `-epochs`.
        options: names of the settings of the command.
        command: name of the command.
    """
    typed, equals, value = word.partition("=")
    name = typed.lstrip(DASHES).replace("-", "_")
    if not equals and name == typed.replace("-", "_"):
        return ""
    if name in options:
        return f"Use {as_flag(name)}{f' {quote(value)}' if value else ''}. "
    advice = advise_option(name, options, command)
    return f"{advice} " if advice else "Options begin with two hyphens. "


def check_extra_arguments(context: Any, values: dict[str, Any]) -> None:
    """Raise UserError if arguments were left over by the parser and `take_word`.

    These are options of other models, unknown options, or words without an option.

    Args:
        context: Typer's context of the command.
        values: options that were set, by setting name.
    """
    if not context.args:
        return
    model = values.get("model", config.ModelChoice().model)
    # an unknown model is reported first
    resolved = resolve_model(model, values.get("variation"))
    option_names = [param.name for param in context.command.params]
    names = {extra: extra.lstrip("-").partition("=")[0].replace("-", "_") for extra in context.args}
    unknown = (extra for extra in context.args if extra.startswith("--"))
    flag = next((extra for extra in unknown if names[extra] not in option_names), None)
    if flag is None:
        others = list(context.args)
        folder = next((word for word in others if is_dir(expand(word))), None)
        if folder is not None and len(others) > 1:  # the other words make the line invalid
            others.remove(folder)
        word = others[0]
        hint = _explain_option(word, option_names, context.info_name) or _explain_word(word, values)
        raise UserError(f"Unexpected argument {word!r}. {hint}See `{context.command_path} --help`.")
    check_other_commands(names[flag], context.info_name, option_names)
    raise config.unknown_setting_error(
        names[flag], resolved.family, option_names, context.info_name
    )
