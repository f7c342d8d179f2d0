"""Screen of a terminal after the output of a program, as far as rich and Click use one."""

from __future__ import annotations

import re

TOKEN = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


def render_screen(output: str) -> list[str]:
    """Return the lines that a terminal of unlimited height shows after `output`.

    Understands text, carriage returns, line feeds, erased lines and a cursor that moves up; colours
    and the visibility of the cursor are ignored.
    """
    lines, row, column = [""], 0, 0
    for token in TOKEN.finditer(output):
        text, number, command = token[0], token[1], token[2]
        if text == "\n":  # the terminal driver makes it \r\n
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif text == "\r":
            column = 0
        elif command == "A":
            row = max(0, row - int(number or 1))
        elif command == "K":
            lines[row] = lines[row][:column] if number in ("", "0") else ""
        elif command is None:
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        else:
            assert command in "hlm", repr(text)
    return [line.rstrip() for line in lines]


def hides_cursor(output: str) -> bool:
    """Return True if the cursor is hidden after `output`."""
    return output.rfind("\x1b[?25l") > output.rfind("\x1b[?25h")
