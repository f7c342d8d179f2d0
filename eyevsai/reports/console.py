"""Style and output of the tables that commands print."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.table import Table

from eyevsai.core.terminal import line_width


def make_table(*titles: str, title: str | None = None) -> Table:
    """Return an empty table without lines, so that wide contents fit; long cells are wrapped.

    Args:
        titles: titles of the columns, in rich's markup.
        title: title of the table, in rich's markup.
    """
    table = Table(
        box=None,
        header_style="bold",
        pad_edge=False,
        padding=(0, 2, 0, 0),
        title=title,
        title_justify="left",
    )
    for each in titles:
        table.add_column(each, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table to standard output, with `line_width` columns at most.

    The width of files and pipes does not depend on that of a terminal, and they get no spaces at
    the ends of lines.
    """
    console = Console(width=line_width(sys.stdout))
    if sys.stdout.isatty():
        console.print(table)
        return
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))
