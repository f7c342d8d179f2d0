"""The vocabulary in which every setting is declared once, beside what it configures.

    lr: Annotated[float, Range(1e-5, 1e-1, log=True), Doc("Peak learning rate.")] = 1e-3

The command's flag and help, the logged parameter, the validation error and the search
distribution are all read from that one line. Plain values only: nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import shlex
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from eyevsai.core.errors import UserError

# what this machine keeps of its own
STATE_DIR, CACHE_DIR = ("~/.local/state/eyevsai", "~/.cache/eyevsai")
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True)
class Range:
    """A closed interval of numbers; `log` says that factors, not differences, matter."""

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
    """Where tuning looks for a setting; a setting without it is never tuned."""

    space: Range | Choice


@dataclass(frozen=True)
class When:
    """A setting that matters only while another has one of some values; tuning leaves it alone
    otherwise.
    """

    name: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Doc:
    """The help text of a setting."""

    text: str


@dataclass(frozen=True)
class Env:
    """The environment variable that gives a setting when the command line does not."""

    name: str


@dataclass(frozen=True)
class Parameter:
    """Marks a setting that MLproject declares: never tuned, with the same default for every
    model.
    """


@dataclass(frozen=True)
class Setting:
    """One declared setting, as read from its dataclass."""

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

    @property
    def flag(self) -> str:
        """The command-line spelling: `--weight-decay`."""
        return as_flag(self.name)

    @property
    def rejects_empty(self) -> bool:
        """True for text that has no default: an empty value is a variable of a script that was not
        set.
        """
        return self.type is str and self.optional and self.default is None

    def empty_value_error(self, called: str | None = None) -> UserError:
        """Return the error for an empty value."""
        return UserError(f"{called or self.flag} is empty. Give it a value, or leave it out.")

    def parse(self, text: str, called: str | None = None) -> Any:
        """The value that `text` stands for; `called` is how it is typed where that is not by the
        flag.

        Raises:
            UserError: when the text is no value of this setting's type, or is not allowed.
        """
        if text == "" and self.optional:
            return None
        try:
            value = _PARSERS[self.type](text)
        except ValueError:
            raise UserError(
                f"{called or self.flag} takes {_TYPE_NAMES[self.type]}, not {text!r}."
            ) from None
        self.check(value, called)
        return value

    def coerce(self, value: Any) -> Any:
        """A value that a program gave, as plain values: numpy's numbers, whole ones where others
        go, paths for text.
        """
        if value == "" and self.rejects_empty:
            raise self.empty_value_error()
        item = getattr(value, "item", None)
        value = item() if callable(item) and getattr(value, "ndim", 0) == 0 else value
        if self.type is str and isinstance(value, os.PathLike):
            return os.fspath(value)
        if value == "" and self.optional:
            return None
        return float(value) if self.type is float and type(value) is int else value

    def check(self, value: Any, called: str | None = None) -> None:
        """Raises UserError when `value` is outside what the declaration allows."""
        if value is None and self.optional:
            return
        called = called or self.flag
        wanted = (int, float) if self.type is float else self.type
        if not isinstance(value, wanted) or (self.type is not bool and isinstance(value, bool)):
            raise UserError(f"{called} takes {_TYPE_NAMES[self.type]}, not {value!r}.")
        if self.allowed is not None and value not in self.allowed:
            wanted_text = "one of" if isinstance(self.allowed, Choice) else "a value of"
            raise UserError(
                f"{called} {_format_value(value)} is not allowed: it takes {wanted_text} "
                f"{self.allowed}."
            )
        if isinstance(value, str) and not _is_clean(value):
            raise UserError(
                f"{called} {value!r} is no text: it holds the character 0, or bytes that are "
                "not UTF-8."
            )
        if value == "":  # a folder of this name would be the current one
            raise self.empty_value_error(called)


@dataclass(frozen=True)
class Settings:
    """Base of every settings dataclass: an object that exists is a valid one."""

    PANEL: ClassVar[str] = "Settings"
    # inherited settings that tuning leaves alone here
    NOT_SEARCHED: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        for setting in list_settings(type(self)):
            setting.check(getattr(self, setting.name))


def _is_clean(text: str) -> bool:
    """Whether databases and files take a text."""
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _format_value(value: Any) -> str:
    return repr(value) if isinstance(value, str) else str(value)


def as_flag(name: str) -> str:
    """Return the command-line spelling of a setting's name: `--weight-decay`."""
    return "--" + name.replace("_", "-")


def format_flags(values: Mapping[str, Any]) -> str:
    """Settings as a person types them: `--lr 0.001 --max-depth ''`."""
    texts = {name: "" if value is None else str(value) for name, value in values.items()}
    return " ".join(f"{as_flag(name)} {shlex.quote(text)}" for name, text in texts.items())


def parse_bool(text: str) -> bool:
    """True or False from the words that command lines use for them; ValueError for others."""
    word = text.lower()
    if word not in TRUE + FALSE:
        raise ValueError(text)
    return word in TRUE


_PARSERS: dict[type, Any] = {int: int, float: float, str: str, bool: parse_bool}
_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def split_settings(
    given: Mapping[str, Any], *parts: type[Settings]
) -> tuple[set[str], dict[str, Any]]:
    """Return the names of the settings of `parts`, and the given values of other settings."""
    own = {setting.name for part in parts for setting in list_settings(part)}
    return own, {name: value for name, value in given.items() if name not in own}


def list_settings(cls: type[Settings]) -> tuple[Setting, ...]:
    """The declared settings of a settings dataclass, in order of declaration.

    A subclass that restates a field to change its default (`lr: float = 1e-3`) keeps the
    range and the help of the declaration that it overrides.
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
        and field.name in (hints := _own_hints(base))  # type: ignore[arg-type]  # as above
        and typing.get_origin(hints[field.name]) is typing.Annotated
    ]
    if not declarations:
        raise TypeError(f"{cls.__name__}.{field.name} is declared without Annotated[..., Doc(...)]")
    (first, _), (_, hint) = declarations[0], declarations[-1]
    annotation, *marks = typing.get_args(hint)
    kind, optional = _strip_optional(annotation)
    left_alone = cls.NOT_SEARCHED  # type: ignore[attr-defined]
    return Setting(
        name=field.name,
        type=kind,
        optional=optional,
        default=field.default,
        doc=next(mark.text for mark in marks if isinstance(mark, Doc)),
        panel=first.PANEL,
        allowed=next((mark for mark in marks if isinstance(mark, Range | Choice)), None),
        search=next(
            (
                mark.space
                for mark in marks
                if isinstance(mark, Search) and field.name not in left_alone
            ),
            None,
        ),
        when=next((mark for mark in marks if isinstance(mark, When)), None),
        env=next((mark.name for mark in marks if isinstance(mark, Env)), None),
        parameter=any(isinstance(mark, Parameter) for mark in marks),
    )


@functools.cache
def _own_hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in inspect.get_annotations(cls)}


def _strip_optional(annotation: Any) -> tuple[type, bool]:
    if isinstance(annotation, types.UnionType):
        (kind,) = (part for part in typing.get_args(annotation) if part is not type(None))
        return kind, True
    return annotation, False
