"""How jobs stand, as a table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

BEFORE = "was done before"
COLORS = {"running": "cyan", "done": "green", "failed": "red", BEFORE: "dim"}


@dataclass(frozen=True)
class JobRow:
    """One job: what it is called, its state, what is known of it, and how long it has run."""

    name: str
    state: str
    detail: str
    seconds: float

    def to_text(self) -> str:
        """One line of a log."""
        return f"{self.name}: {self.state}{f', {self.detail}' if self.detail else ''}"


def render_jobs(rows: Sequence[JobRow]) -> Table:
    """A row for each job."""
    table = Table("job", "state", "", "time", title_justify="left")
    for row in rows:
        color = COLORS.get(row.state, "")
        state = f"[{color}]{row.state}[/]" if color else row.state
        table.add_row(escape(row.name), state, escape(row.detail), _clock(row.seconds))
    return table


def _clock(seconds: float) -> str:
    if not seconds:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
