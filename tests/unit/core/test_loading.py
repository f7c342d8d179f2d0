"""Lines about the libraries that a command loads."""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stderr

import pytest

from eyevsai.core import loading as module
from eyevsai.core.loading import loading


class Terminal(io.StringIO):
    """Standard error of a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return the terminal; `absent` and `gone` are libraries that are not loaded."""
    monkeypatch.setattr(module, "LIBRARIES", {"absent": "Absent", "sys": "Sys", "gone": "Gone"})
    monkeypatch.setattr(module, "log", logging.getLogger("test.loading"))
    module.log.setLevel(logging.INFO)
    return Terminal()


def load(terminal: Terminal, *names: str, is_silent: bool = False) -> str:
    """Load libraries; return what the terminal shows meanwhile."""
    with redirect_stderr(terminal), loading(*names, is_silent=is_silent):
        return terminal.getvalue()


def test_line_names_what_is_loaded_and_is_erased(terminal: Terminal) -> None:
    assert load(terminal, "absent", "sys", "gone") == "Loading Absent and Gone\r"
    assert terminal.getvalue() == f"Loading Absent and Gone\r{'':23}\r"


def test_line_is_erased_after_an_error(terminal: Terminal) -> None:
    with pytest.raises(ImportError), redirect_stderr(terminal), loading("absent"):
        raise ImportError
    assert terminal.getvalue() == f"Loading Absent\r{'':14}\r"


def test_nothing_is_shown_if_all_is_loaded_or_nobody_reads_it(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(terminal, "sys")
    load(terminal, "absent", is_silent=True)
    module.log.setLevel(logging.WARNING)  # --quiet
    load(terminal, "absent")
    module.log.setLevel(logging.INFO)
    monkeypatch.setattr(Terminal, "isatty", lambda _: False)
    load(terminal, "absent")
    assert terminal.getvalue() == ""
