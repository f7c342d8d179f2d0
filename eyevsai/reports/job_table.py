"""Status of jobs as a terminal table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from eyevsai.reports.console import make_table

CACHED = "cached"
COLORS = {"running": "cyan", "done": "green", "failed": "red", CACHED: "dim"}


@dataclass(frozen=True)
class JobRow:
    """Row of the table."""

    name: str
    state: str
    detail: str  # such as metrics, the error or the URI of the version
    seconds: float  # duration so far

    def to_text(self) -> str:
        """Return the row as one log line."""
        return f"{self.name}: {self.state}{f', {self.detail}' if self.detail else ''}"


def render_jobs(rows: Sequence[JobRow]) -> Table:
    """Return a table with one row per job."""
    table = make_table("job", "state", "", "time")
    for row in rows:
        color = COLORS.get(row.state, "")
        state = f"[{color}]{row.state}[/]" if color else row.state
        table.add_row(escape(row.name), state, escape(row.detail), _clock(row.seconds))
    return table


def _clock(seconds: float) -> str:
    """Return a duration as H:MM:SS or M:SS; empty if it is 0."""
    if not seconds:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
