"""Width of lines, and the terminals that show live displays."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stderr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core import terminal
from eyevsai.core.terminal import MAX_WIDTH, is_live, wrap, wrap_items, wrap_message

WORDS = st.lists(st.text("abc/_-:", min_size=1, max_size=30), min_size=1, max_size=40)


class Screen(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self) -> bool:
        return True


@given(WORDS)
def test_wrapped_lines_fit_and_keep_all_words(words: list[str]) -> None:
    lines = wrap(" ".join(words), "ok    store  ").splitlines()
    assert max(map(len, lines)) <= MAX_WIDTH
    assert " ".join(lines).split() == ["ok", "store", *words]
    assert all(line.startswith(" " * 13) for line in lines[1:])


def test_long_words_stay_whole_for_copying() -> None:
    path = "/a-b" * 60
    assert wrap(f"see {path} now", "> ") == f"> see\n  {path}\n  now"
    assert wrap("", "> ") == "> "
    assert wrap(f"{'x' * 80} `eyevsai install offline`") == f"{'x' * 80}\n`eyevsai install offline`"
    assert wrap("x" * 90 + " y", "not used: ", indent="") == f"not used: {'x' * 90}\ny"


def test_messages_are_wrapped_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = "Interrupted. " * 4 + "Resume with: eyevsai train --resume 0123456789abcdef\n  detail"
    assert wrap_message(text, io.StringIO()) == text
    assert wrap_message(text, Screen()).split("\n") == [
        "Interrupted. Interrupted. Interrupted.",
        "Interrupted. Resume with:",
        "eyevsai train --resume 0123456789abcdef",
        "  detail",
    ]
    assert wrap_message("one two three", Screen(), "x" * 30 + " ").split("\n") == [
        "x" * 30 + " one two",
        " " * 31 + "three",
    ]
    assert wrap_message("one two three", io.StringIO(), "ok  ") == "ok  one two three"
    monkeypatch.setenv("COLUMNS", "300")
    assert max(map(len, wrap_message("word " * 99, Screen()).split("\n"))) <= MAX_WIDTH


@given(st.lists(st.text("ab ", min_size=1, max_size=120), max_size=20))
def test_items_are_kept_as_they_are(items: list[str]) -> None:
    lines = wrap_items(items, "near   ").split("\n")
    assert all(len(line) <= max(MAX_WIDTH, 7 + max(map(len, items))) for line in lines if items)
    assert "  ".join(line[7:] for line in lines) == "  ".join(items)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, True),
        ({"TERM": "dumb"}, False),
        ({"TERM": ""}, True),
        ({"CI": "true"}, False),
        ({"CI": "1"}, False),
        ({"CI": "false"}, True),
    ],
)
def test_live_display_needs_a_terminal_that_redraws(
    env: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = logging.getLogger("test.terminal")
    log.setLevel(logging.INFO)
    monkeypatch.setattr(terminal, "log", log)
    for name, value in ({"TERM": "xterm", "CI": ""} | env).items():
        monkeypatch.setenv(name, value)
    with redirect_stderr(Screen()):
        assert is_live() is expected
        log.setLevel(logging.WARNING)  # --quiet
        assert not is_live()
    log.setLevel(logging.INFO)
    with redirect_stderr(io.StringIO()):
        assert not is_live()
