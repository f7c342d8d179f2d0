"""A part of a text that eyevsai updates, in a text that people edit, too."""

from __future__ import annotations

import re

# Invisible characters, because MLflow's UI shows the first characters of a description unrendered.
# Each is doubled, since single ones occur in texts that are copied from other programs.
START, END = "\u2063\u2063", "\u2060\u2060"
# begins at the last one of several start markers: people may have deleted the end of a part
PART = re.compile(f"{START}((?!{START}).)*?{END}", re.DOTALL)


def replace_part(text: str, part: str) -> str:
    """Return a text with another part between the markers; all other text is kept.

    A text without both markers gets the part at its end.
    """
    marked = f"{START}{part}{END}"
    if match := PART.search(text):
        return text[: match.start()] + marked + text[match.end() :]
    return f"{text.rstrip()}\n\n{marked}" if text.strip() else marked
