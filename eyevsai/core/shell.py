"""Quoting of words for shells, and words that arrive with their quotes."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence

IS_WINDOWS = sys.platform == "win32"
# words that cmd.exe and PowerShell take as they are; PowerShell splits others at commas
SAFE_ON_WINDOWS = re.compile(r"[\w+=:./\\-][\w@+=:./\\-]*", re.ASCII)
# backslashes before a quote, the quote, a space, and other characters
PART_ON_WINDOWS = re.compile(r'(\\*)(")|( )|(\\+(?!["\\])|[^\\" ]+)')


def quote(word: str) -> str:
    """Return a word quoted for a POSIX shell; on Windows for cmd.exe and PowerShell.

    The two shells of Windows expand `%` and `$` in different ways, which is not prevented.
    """
    if not IS_WINDOWS:
        return shlex.quote(word)
    if SAFE_ON_WINDOWS.fullmatch(word):
        return word
    # a program on Windows reads \\" as the end of its argument, and \" as a quote in it
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', word)
    return '"' + re.sub(r"(\\+)$", r"\1\1", escaped) + '"'


def unquote_arguments(words: Sequence[str]) -> list[str]:
    """Return the arguments of a program that `mlflow run` started, without quotes on Windows.

    There, MLflow quotes values for cmd.exe, and Python's subprocess then escapes these quotes: they
    arrive as parts of the words, which are split at the spaces inside of them. An empty value
    arrives as two quotes. Several spaces in a row become one.
    """
    text = "".join(words)
    is_split = IS_WINDOWS and '"' in text and " " not in text
    return _split(" ".join(words)) if is_split else list(words)


def _split(line: str) -> list[str]:
    """Return the words of a command line as programs on Windows read it."""
    words, word, is_quoted = list[str](), None, False
    for slashes, quote_mark, space, letters in PART_ON_WINDOWS.findall(line):
        if space and not is_quoted:
            words += [] if word is None else [word]
            word = None
        elif not quote_mark:
            word = (word or "") + slashes + space + letters
        else:
            is_escaped = len(slashes) % 2 == 1
            word = (word or "") + slashes[: len(slashes) // 2] + quote_mark * is_escaped
            is_quoted = is_quoted != (not is_escaped)
    return words if word is None else [*words, word]


def join(words: Iterable[str]) -> str:
    """Return a command line of quoted words."""
    return " ".join(map(quote, words))
