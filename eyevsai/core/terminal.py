"""Output for terminals: its width, wrapping of lines, and the condition of live displays."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import TextIO

MAX_WIDTH = 100  # columns of help, tables and wrapped lines
SHOW_CURSOR = "\x1b[?25h"  # ends what a live display began by hiding the cursor
NOT_LIVE = ("dumb", "unknown")  # values of TERM for terminals whose cursor cannot be moved
OFF = ("", "0", "false")
KEPT_WHOLE = re.compile(r"`[^`]*`|(?<=: )(?:eyevsai|mlflow|pip|python) .*$")
_SPACE = "\0"  # stands for a space at which no line ends

log = logging.getLogger("eyevsai")


def is_live() -> bool:
    """Return True if standard error can show a live display, such as a progress bar.

    It must be a terminal that moves its cursor. False in CI, whose logs keep each drawing, and if
    INFO is disabled, as by --quiet.
    """
    if not sys.stderr.isatty() or not log.isEnabledFor(logging.INFO):
        return False
    is_ci = os.environ.get("CI", "").lower() not in OFF
    return not is_ci and os.environ.get("TERM", "") not in NOT_LIVE


def line_width(stream: TextIO) -> int:
    """Return the columns of a line: `MAX_WIDTH`, or those of a narrower terminal."""
    if not stream.isatty():
        return MAX_WIDTH
    return min(MAX_WIDTH, shutil.get_terminal_size((MAX_WIDTH, 24)).columns)


def wrap(text: str, prefix: str = "", *, indent: str | None = None) -> str:
    """Return a cell of a table, after `prefix`, in lines for standard output.

    There is no newline at the end. Words, such as paths and URIs, are kept whole, even if one alone
    is longer than a line; so are commands in backquotes, or from a colon to the end of the text,
    which can then be copied.

    Args:
        text: words, separated by spaces.
        prefix: start of the first line.
        indent: start of further lines; by default as many spaces as `prefix` has characters.
    """
    indent = " " * len(prefix) if indent is None else indent
    return _fill(text, line_width(sys.stdout), prefix, indent)


def wrap_message(text: str, stream: TextIO, prefix: str = "") -> str:
    """Return a message for `stream` after `prefix`, with its long lines wrapped on a terminal.

    Files and pipes get it unchanged: programs read a message as one line. Wrapped lines are those
    of `wrap`, which start with as many spaces as `prefix` has characters.
    """
    width, first, *others = line_width(stream), *f"{prefix}{text}".split("\n")
    if not stream.isatty():
        return f"{prefix}{text}"
    indent = " " * len(prefix)
    lines = [_fill(first[len(prefix) :], width, prefix, indent) if len(first) > width else first]
    lines += [_fill(line, width, "", indent) if len(line) > width else line for line in others]
    return "\n".join(lines)


def _fill(text: str, width: int, prefix: str, indent: str) -> str:
    lines = textwrap.fill(
        KEPT_WHOLE.sub(lambda command: command[0].replace(" ", _SPACE), text),
        width,
        initial_indent=prefix,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace(_SPACE, " ") or prefix


def wrap_items(items: Iterable[str], prefix: str, separator: str = "  ") -> str:
    """Return `items` after `prefix` in lines for standard output, without a newline at the end.

    Items are kept as they are, since they may be names with spaces, with `separator` between those
    of a line. One that is longer than a line has a line of its own. Further lines start with as
    many spaces as `prefix` has characters.
    """
    lines, width = [prefix], line_width(sys.stdout)
    is_first = True  # of its line
    for item in items:
        text = item if is_first else f"{separator}{item}"
        if not is_first and len(lines[-1]) + len(text) > width:
            lines.append(" " * len(prefix) + item)
        else:
            lines[-1] += text
        is_first = False
    return "\n".join(lines)
