"""Results of `monitor live` as terminal output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from eyevsai.core.terminal import wrap
from eyevsai.reports.console import make_table, print_table
from eyevsai.reports.live_text import TITLES, describe_risk, list_cells

SHOWN = 12  # newest windows


def print_live(report: Mapping[str, Any]) -> None:
    """Print a table of the newest windows, the state of the labels, and the alerts.

    Args:
        report: JSON values of the report.
    """
    windows = report["windows"]
    print(
        wrap(
            f"{report['model']} version {report['version']}: {report['answers']:,} answers in "
            f"{len(windows)} windows"
            + (f", of which the last {SHOWN} are listed" if len(windows) > SHOWN else "")
        )
    )
    table = make_table(*TITLES)
    for window in windows[-SHOWN:]:
        table.add_row(*(escape(cell) for cell in list_cells(window)))
    print_table(table)
    print(wrap(describe_risk(report["risk"])))
    for note in report["notes"]:
        print(wrap(note))
    for alert in report["alerts"]:
        print(wrap(f"ALERT {alert['name']} ({alert['severity']}): {alert['text']}"))
    if not report["alerts"]:
        print("no alert")
