"""State of the labels of a model as terminal output."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from eyevsai.core.terminal import wrap_message
from eyevsai.reports.console import make_table, print_table


def print_labels(summary: Mapping[str, Any], has_many_corrections: bool) -> None:
    """Print counts of labels, and a table of their sources.

    Args:
        summary: `LabelSummary` as JSON values.
        has_many_corrections: print a notice that the first labels were unreliable.
    """
    print(
        f"{summary['labelled']:,} of {summary['answers']:,} answers have labels: "
        f"{summary['disputed']:,} disputed, {summary['corrected']:,} corrected. "
        f"{summary['waiting']:,} labels wait for their answer, {summary['unknown']:,} have none "
        "after a day."
    )
    if summary["sources"]:
        table = make_table("source", "labels", "share", "disagreement", "error rate", "")
        for name, each in summary["sources"].items():
            table.add_row(
                escape(name),
                f"{each['answers']:,}",
                _percent(each["share"]),
                _percent(each["disagreement"]),
                _percent(each["error_rate"]),
                "excluded" if each["is_excluded"] else "",
            )
        print_table(table)
    if has_many_corrections:
        text = (
            "More than 2 % of the labels were corrected. Tests use the first label of an answer, "
            "and are not run again."
        )
        print(wrap_message(text, sys.stdout, "NOTE  "))
    if summary["unknown_ids"]:
        text = f"Labels without an answer: {', '.join(summary['unknown_ids'])}"
        print(wrap_message(text, sys.stdout, "NOTE  "))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
