"""Declaration of settings. Each is declared once, in a dataclass beside the code it configures:

    lr: Annotated[float, Range(1e-5, 1e-1, log=True), Doc("Peak learning rate.")] = 1e-3

The command-line option and its help, the logged parameter, the validation and the search
distribution are derived from this declaration. Settings have plain values, so that this module does
not import torch.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.foreign_words import advise_value
from eyevsai.core.names import nearest
from eyevsai.core.shell import quote

# default folders for the state and the caches of this machine
STATE_DIR, CACHE_DIR = ("~/.local/state/eyevsai", "~/.cache/eyevsai")
MAX_EXACT_FLOAT = 2.0**53  # above it, floats do not represent each whole number
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Range:
    """A closed interval of numbers; with `log`, it is searched on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high

    def __str__(self) -> str:
        return " to ".join(
            str(end) if isinstance(end, int) else f"{end:g}" for end in (self.low, self.high)
        )


@dataclass(frozen=True)
class Choice:
    """A closed list of values."""

    options: tuple[Any, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.options

    def __str__(self) -> str:
        return ", ".join(map(str, self.options))


@dataclass(frozen=True)
class Search:
    """The search space of a setting; a setting without one is never tuned."""

    space: Range | Choice


@dataclass(frozen=True)
class When:
    """Condition of a setting: it has an effect only if the setting `name` has one of `values`.

    Tuning samples it only then.
    """

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Doc:
    """The help text of a setting."""

    text: str


@dataclass(frozen=True)
class Env:
    """The environment variable that is used if the command line does not set a setting."""

    name: str


@dataclass(frozen=True)
class Parameter:
    """Marker of a setting that MLproject declares.

    Such a setting is never tuned and has the same default for every model.
    """


@dataclass(frozen=True)
class NotLogged:
    """Marker of a setting that is no parameter of a run in MLflow; `config.json` has it.

    It is a path or a limit of the machine, or does not affect the model.
    """


@dataclass(frozen=True)
class Detail:
    """Marker of a setting that is a parameter of a run only if it differs from the default."""


@dataclass(frozen=True)
class Setting:
    """Declaration of one setting, as read from its dataclass."""

    name: str
    type: type
    optional: bool
    default: Any
    doc: str
    panel: str
    allowed: Range | Choice | None = None
    search: Range | Choice | None = None
    when: When | None = None
    env: str | None = None
    parameter: bool = False
    is_logged: bool = True  # as a parameter of a run, if it acts
    is_detail: bool = False  # logged only if it differs from the default

    def acts(self, values: Mapping[str, Any]) -> bool:
        """Return True if a run with these values has the setting among its parameters.

        The parameters are what people compare: neither settings that have no effect beside the
        others, nor details that have their default, nor those that are never logged.
        """
        if not self.is_logged or (self.is_detail and values[self.name] == self.default):
            return False
        return self.when is None or values.get(self.when.name) in self.when.values

    @property
    def flag(self) -> str:
        """Command-line option, for example `--weight-decay`."""
        return as_flag(self.name)

    @property
    def rejects_empty(self) -> bool:
        """True for optional text without a default.

        An empty value of such a setting usually comes from an unset variable of a script.
        """
        return self.type is str and self.optional and self.default is None

    def empty_value_error(self, display_name: str | None = None) -> UserError:
        """Return the error for an empty value; `display_name` replaces the option in it."""
        return UserError(f"{display_name or self.flag} is empty. Set a value, or omit it.")

    def parse(self, text: str, display_name: str | None = None) -> Any:
        """Return the value of a text from the command line; None if it is empty and optional.

        `display_name` replaces the option in error messages, for example for an argument.

        Raises:
            UserError: the text is not a value of this setting's type, or the value is not allowed.
        """
        if text == "" and self.optional:
            return None
        try:
            value = _PARSERS[self.type](text)
        except ValueError:
            raise UserError(
                f"{display_name or self.flag} must be {_TYPE_NAMES[self.type]}, not {text!r}."
            ) from None
        self.check(value, display_name)
        return value

    def is_default(self, text: str) -> bool:
        """Return True if a text from the command line is the default; False if it is invalid."""
        try:
            return bool(self.parse(text) == self.default)
        except UserError:
            return False

    def coerce(self, value: Any) -> Any:
        """Convert a value from Python code to the type of this setting.

        NumPy scalars become Python numbers, ints become floats for a float setting, whole floats
        become ints for an int setting, and paths become text. Empty text becomes None if the
        setting is optional. Other values are returned unchanged; `check` validates them.

        Raises:
            UserError: the value is empty and `rejects_empty` is True.
        """
        if value == "" and self.rejects_empty:
            raise self.empty_value_error()
        item = getattr(value, "item", None)
        value = item() if callable(item) and getattr(value, "ndim", 0) == 0 else value
        if self.type is str and isinstance(value, os.PathLike):
            return os.fspath(value)
        if value == "" and self.optional:
            return None
        if self.type is int and type(value) is float and value.is_integer():
            return int(value)
        return float(value) if self.type is float and type(value) is int else value

    def check(self, value: Any, display_name: str | None = None) -> None:
        """Raise UserError if `value` has the wrong type, is not allowed, or is empty.

        None is valid if the setting is optional. `display_name` replaces the option in the message.
        """
        if value is None and self.optional:
            return
        display_name = display_name or self.flag
        value_types = (int, float) if self.type is float else self.type
        if not isinstance(value, value_types) or (
            self.type is not bool and isinstance(value, bool)
        ):
            raise UserError(f"{display_name} must be {_TYPE_NAMES[self.type]}, not {value!r}.")
        if self.allowed is not None and value not in self.allowed:
            expected = "one of" if isinstance(self.allowed, Choice) else "a value from"
            raise UserError(
                f"{display_name} {_format_value(value)} is not allowed. Use {expected} "
                f"{self.allowed}.{self._suggest_value(value)}"
            )
        if isinstance(value, str) and not _is_storable(value):
            raise UserError(
                f"{display_name} {value!r} is not valid text: it contains a null character, or "
                "bytes that are not UTF-8."
            )
        if value == "":  # as a path it would be the current folder
            raise self.empty_value_error(display_name)

    def _suggest_value(self, value: Any) -> str:
        """Return a sentence on the value to use instead, after a space; empty if none is near."""
        if advice := advise_value(self.name, value):
            return f" {advice}"
        options = map(str, self.allowed.options) if isinstance(self.allowed, Choice) else ()
        guess = nearest(str(value), options)
        return f" Did you mean {guess}?" if guess else ""


@dataclass(frozen=True)
class Settings:
    """Base class of settings dataclasses; `Setting.check` validates all values of a new object."""

    PANEL: ClassVar[str] = "Settings"
    # values of settings that models saved before the setting existed were trained with
    LEGACY: ClassVar[Mapping[str, Any]] = {}
    # inherited settings that are not tuned in this class
    NOT_SEARCHED: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for setting in list_settings(type(self)):
            setting.check(getattr(self, setting.name))


StateDir = Annotated[
    str,
    Env("EYEVSAI_STATE"),
    NotLogged(),
    Doc("Folder for run state, checkpoints and writes that are not synced yet."),
]


def _is_storable(text: str) -> bool:
    """Return True if databases and file systems accept a text."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _format_value(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def as_flag(name: str) -> str:
    """Return the command-line option of a setting's name: `--weight-decay`."""
    return "--" + name.replace("_", "-")


def require_option(settings: Settings, name: str, required: str) -> None:
    """Raise UserError if a setting differs from its default, but has no effect.

    Args:
        settings: the settings.
        name: name of the setting.
        required: name of the setting without which it has no effect: None, False or 0.
    """
    default = next(each.default for each in list_settings(type(settings)) if each.name == name)
    if getattr(settings, name) != default and not getattr(settings, required):
        flags = format_flags({name: getattr(settings, name)})
        raise UserError(
            f"{flags} requires {as_flag(required)}. Add {as_flag(required)}, or omit "
            f"{as_flag(name)}."
        )


def format_flags(values: Mapping[str, Any]) -> str:
    """Format settings as command-line arguments, quoted for a shell: `--lr 0.001 --max-depth ''`.

    None becomes the empty text; True and False become `true` and `false`.
    """
    texts = {
        name: str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)
        for name, value in values.items()
    }
    return " ".join(f"{as_flag(name)} {quote(text)}" for name, text in texts.items())


def parse_bool(text: str) -> bool:
    """Return the truth value of a word of `TRUE` or `FALSE`, in any case.

    Raises:
        ValueError: it is another word.
    """
    word = text.lower()
    if word not in TRUE + FALSE:
        raise ValueError(text)
    return word in TRUE


def parse_int(text: str) -> int:
    """Return the whole number of a text, which may be written as a float: `8`, `8.0` or `1e1`.

    MLproject declares whole numbers as floats, because MLflow has no integer type.

    Raises:
        ValueError: it is not a number, not whole, or a float too large to be exact.
    """
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if not number.is_integer() or abs(number) > MAX_EXACT_FLOAT:
            raise
        return int(number)


_PARSERS: dict[type, Any] = {int: parse_int, float: float, str: str, bool: parse_bool}
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def split_settings(
    values: Mapping[str, Any], *parts: type[Settings]
) -> tuple[set[str], dict[str, Any]]:
    """Return the names of the settings of `parts`, and the values of all other settings."""
    names = {setting.name for part in parts for setting in list_settings(part)}
    return names, {name: value for name, value in values.items() if name not in names}


def list_settings(cls: type[Settings]) -> tuple[Setting, ...]:
    """Return the settings of a settings dataclass in the order of declaration.

    A subclass can repeat a field without `Annotated` to change its default (`lr: float = 1e-3`);
    the range and the help of the overridden declaration stay in effect.

    Raises:
        TypeError: a field has no declaration with `Annotated`.
    """
    return _list_settings(cls)  # type: ignore[arg-type]  # mypy does not see that a class is hashable


@functools.cache
def _list_settings(cls: type) -> tuple[Setting, ...]:
    return tuple(_read_setting(cls, field) for field in dataclasses.fields(cls))


def _read_setting(cls: type, field: dataclasses.Field[Any]) -> Setting:
    declarations = [
        (base, hints[field.name])
        for base in reversed(cls.__mro__)
        if issubclass(base, Settings)
        and field.name in (hints := _class_hints(base))  # type: ignore[arg-type]  # mypy: not hashable
        and typing.get_origin(hints[field.name]) is typing.Annotated
    ]
    if not declarations:
        raise TypeError(f"{cls.__name__}.{field.name} is declared without Annotated[..., Doc(...)]")
    (first, _), (_, hint) = declarations[0], declarations[-1]
    annotation, *marks = typing.get_args(hint)
    value_type, optional = _strip_optional(annotation)
    not_searched = cls.NOT_SEARCHED  # type: ignore[attr-defined]
    return Setting(
        name=field.name,
        type=value_type,
        optional=optional,
        default=field.default,
        doc=next(mark.text for mark in marks if isinstance(mark, Doc)),
        panel=first.PANEL,
        allowed=next((mark for mark in marks if isinstance(mark, Range | Choice)), None),
        search=next(
            (
                mark.space
                for mark in marks
                if isinstance(mark, Search) and field.name not in not_searched
            ),
            None,
        ),
        when=next((mark for mark in marks if isinstance(mark, When)), None),
        env=next((mark.name for mark in marks if isinstance(mark, Env)), None),
        parameter=any(isinstance(mark, Parameter) for mark in marks),
        is_logged=not any(isinstance(mark, NotLogged) for mark in marks),
        is_detail=any(isinstance(mark, Detail) for mark in marks),
    )


@functools.cache
def _class_hints(cls: type) -> dict[str, Any]:
    """Return the type hints of the fields that a class declares itself."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in inspect.get_annotations(cls)}


def _strip_optional(annotation: Any) -> tuple[type, bool]:
    if isinstance(annotation, types.UnionType):
        (value_type,) = (part for part in typing.get_args(annotation) if part is not type(None))
        return value_type, True
    return annotation, False
