"""Progress of a sweep's jobs: a live table or log lines, and metrics and a table in its run."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.constrain import Constrain

from eyevsai.core.names import ModelName
from eyevsai.core.quantities import format_count
from eyevsai.core.terminal import MAX_WIDTH, is_live
from eyevsai.executors.base import State, Status
from eyevsai.reports.job_table import CACHED, JobRow, render_jobs
from eyevsai.tracking.child_runs import ChildRun, find_running_children
from eyevsai.tracking.run import Run

if TYPE_CHECKING:
    from rich.live import Live


log = logging.getLogger("eyevsai")

POLL_S, LINE_EVERY_S = 3.0, 30.0


class Dashboard:
    """Display of job states, epochs and accuracies; a context manager.

    Shows a live table if standard error is a live terminal, else log lines. Epochs and accuracies
    are read from the tracking store, so that jobs may run on other machines.

    Args:
        run: run of the sweep, which gets job counts as metrics and the table as `jobs.json`.
        tracking_uri: store with the runs of jobs.
        cached: URI of the version of each job with a cached result, by job name.
    """

    def __init__(self, run: Run, tracking_uri: str, cached: Mapping[str, str]) -> None:
        self.run, self.tracking_uri, self.cached = run, tracking_uri, cached
        self._details: dict[str, str] = {}
        self._states: dict[str, State] | None = None
        self._polled_at = self._printed_at = time.monotonic()
        self._stack = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Dashboard:
        if is_live():
            from rich.console import Console
            from rich.live import Live

            self._live = self._stack.enter_context(
                Live(console=Console(stderr=True), refresh_per_second=2)
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def update(self, statuses: Mapping[str, Status]) -> None:
        """Display the current status of all jobs; log it to the run if a state changed."""
        is_first = self._states is None
        now, changed = time.monotonic(), self._find_changed(statuses)
        if now - self._polled_at >= POLL_S:
            self._polled_at = now
            self._details = self._read_progress()
        rows = self.rows(statuses)
        # the command prints the versions, which are its result
        shown = [
            replace(row, detail="") if row.state in (State.DONE, CACHED) else row for row in rows
        ]
        if self._live is not None:
            self._live.update(Constrain(render_jobs(shown), MAX_WIDTH))
        else:
            self._print_lines(shown, changed, now)
        if is_first or changed:
            self._log_to_run(rows, statuses)

    def rows(self, statuses: Mapping[str, Status]) -> list[JobRow]:
        """Return a row for each job, those with cached results first."""
        rows = [JobRow(name, CACHED, uri, 0.0) for name, uri in self.cached.items()]
        for name, status in statuses.items():
            detail = status.reason or (
                self._details.get(name, "") if status.state is State.RUNNING else ""
            )
            if status.state is State.DONE:
                detail = str(status.value["model_uri"])
            rows.append(JobRow(name, str(status.state), detail, status.seconds))
        return rows

    def _find_changed(self, statuses: Mapping[str, Status]) -> set[str]:
        """Return the names of jobs whose state changed since the last call, and save the states."""
        states = {name: status.state for name, status in statuses.items()}
        previous, self._states = self._states or {}, states
        return {
            name for name, state in states.items() if previous.get(name, State.QUEUED) is not state
        }

    def _read_progress(self) -> dict[str, str]:
        """Return the progress of running jobs by name; empty if the server is unreachable."""
        children = find_running_children(self.tracking_uri, self.run.run_id)
        return {
            ModelName(*child.name).registered: _describe(child)
            for child in children
            if all(child.name)
        }

    def _print_lines(self, rows: Sequence[JobRow], changed: set[str], now: float) -> None:
        """Log the jobs that changed; every `LINE_EVERY_S` seconds, all running jobs, too."""
        is_due = now - self._printed_at >= LINE_EVERY_S
        self._printed_at = now if is_due else self._printed_at
        for row in rows:
            if row.name in changed or (is_due and row.state == State.RUNNING):
                log.info("%s", row.to_text())

    def _log_to_run(self, rows: Sequence[JobRow], statuses: Mapping[str, Status]) -> None:
        counts = Counter(status.state for status in statuses.values())
        num_ended = counts[State.DONE] + counts[State.FAILED]
        self.run.log_metrics({f"jobs/{state}": counts[state] for state in State}, step=num_ended)
        self.run.log_table(
            "jobs.json",
            ("job", "state", "detail", "seconds"),
            [(row.name, row.state, row.detail, round(row.seconds)) for row in rows],
        )


def _describe(child: ChildRun) -> str:
    if child.job == "tune":
        return f"tuning, {format_count(child.trials, 'trial')}"
    if child.accuracy is not None:
        return f"epoch {child.epoch}, accuracy {child.accuracy:.4f}"
    return f"{child.job}" if child.job != "train" else ""
