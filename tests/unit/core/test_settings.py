from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core.errors import UserError
from eyevsai.core.settings import (
    Choice,
    Doc,
    Range,
    Search,
    Setting,
    Settings,
    format_flags,
    list_settings,
)


@dataclass(frozen=True)
class Shared(Settings):
    PANEL: ClassVar[str] = "Shared"

    lr: Annotated[float, Range(1e-5, 1e-1, log=True), Search(Range(1e-4, 1e-2)), Doc("Rate.")] = (
        1e-3
    )
    steps: Annotated[int, Range(1, 100), Doc("Steps.")] = 10
    kind: Annotated[str, Choice(("a", "b")), Doc("Kind.")] = "a"
    fast: Annotated[bool, Doc("Fast.")] = False
    note: Annotated[str | None, Doc("Note.")] = None


@dataclass(frozen=True)
class Family(Shared):
    PANEL: ClassVar[str] = "Family"

    lr: float = 5e-3
    width: Annotated[int, Range(1, 9), Doc("Width.")] = 3


def test_an_overridden_default_keeps_range_help_search_and_panel() -> None:
    lr = next(setting for setting in list_settings(Family) if setting.name == "lr")
    assert (lr.default, lr.allowed, lr.doc, lr.panel) == (
        5e-3,
        Range(1e-5, 1e-1, log=True),
        "Rate.",
        "Shared",
    )
    assert lr.search == Range(1e-4, 1e-2)
    assert Family().lr == 5e-3


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("lr", "1e-4", 1e-4),
        ("steps", "7", 7),
        ("kind", "b", "b"),
        ("fast", "True", True),
        ("fast", "off", False),
        ("note", "", None),
        ("note", "x", "x"),
    ],
)
def test_parse_reads_what_people_type(name: str, text: str, value: object) -> None:
    setting = next(setting for setting in list_settings(Shared) if setting.name == name)
    assert setting.parse(text) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("lr", "2", "--lr 2.0 is not allowed. Use a value from 1e-05 to 0.1"),
        ("lr", "fast", "--lr must be a number"),
        ("lr", "nan", "--lr nan is not allowed"),
        ("steps", "1.5", "--steps must be a whole number"),
        ("kind", "c", "one of a, b"),
        ("fast", "maybe", "true or false"),
    ],
)
def test_parse_says_what_is_wrong(name: str, text: str, message: str) -> None:
    setting = next(setting for setting in list_settings(Shared) if setting.name == name)
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        setting.parse(text)


@given(st.floats(1e-5, 1e-1), st.integers(1, 100), st.booleans())
def test_what_is_logged_as_text_parses_to_the_same_value(lr: float, steps: int, fast: bool) -> None:
    settings = Shared(lr=lr, steps=steps, fast=fast)
    for setting in list_settings(Shared):
        value = getattr(settings, setting.name)
        assert setting.parse("" if value is None else str(value)) == value


@given(st.floats().filter(lambda value: not 1e-5 <= value <= 1e-1))
def test_no_invalid_object_exists(lr: float) -> None:
    with pytest.raises(UserError):
        Shared(lr=lr)


def test_a_bool_is_no_number() -> None:
    with pytest.raises(UserError):
        Shared(steps=True)


def test_an_inherited_setting_can_be_left_out_of_the_search() -> None:
    @dataclass(frozen=True)
    class Fixed(Shared):
        NOT_SEARCHED: ClassVar[frozenset[str]] = frozenset({"lr"})

    before, after = (
        next(each for each in list_settings(cls) if each.name == "lr") for cls in (Shared, Fixed)
    )
    assert (before.search, after.search) == (Range(1e-4, 1e-2), None)
    assert (before.allowed, before.doc) == (after.allowed, after.doc)


def test_settings_are_spelled_as_a_shell_takes_them() -> None:
    values = {"max_depth": None, "lr": 0.001, "fast": True, "note": "it's; rm"}
    spelled = format_flags(values)
    assert shlex.split(spelled) == [
        "--max-depth",
        "",
        "--lr",
        "0.001",
        "--fast",
        "true",
        "--note",
        "it's; rm",
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "--root is empty. Set a value, or omit it."),
        ("a\0b", "--root .* is not valid text"),
        ("\udcff", "--root .* is not valid text"),
    ],
    ids=["empty", "zero", "bytes"],
)
def test_a_text_that_can_be_no_name_is_refused(value: str, said: str) -> None:
    setting = Setting("root", str, False, "data", "", "Data")
    with pytest.raises(UserError, match=said):
        setting.check(value)


@pytest.mark.parametrize("text", ["8", "8.0", "0.8e1", " 8 "])
def test_whole_number_written_as_a_float_is_accepted(text: str) -> None:
    steps = next(setting for setting in list_settings(Shared) if setting.name == "steps")
    value = steps.parse(text)
    assert (value, type(value)) == (8, int)
    assert type(steps.coerce(8.0)) is int


@pytest.mark.parametrize("text", ["1.5", "nan", "inf", "1e400", "9007199254740994.0"])
def test_float_that_is_no_exact_whole_number_is_refused(text: str) -> None:
    steps = next(setting for setting in list_settings(Shared) if setting.name == "steps")
    with pytest.raises(UserError, match=f"--steps must be a whole number, not '{text}'"):
        steps.parse(text)
    with pytest.raises(UserError, match=r"--steps must be a whole number, not 1\.5"):
        steps.check(steps.coerce(1.5))
