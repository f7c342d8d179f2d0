"""Results of a drift check as terminal output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from eyevsai.core.terminal import wrap
from eyevsai.reports.console import make_table, print_table
from eyevsai.reports.drift_text import (
    describe_strongest,
    explain_window,
    format_estimate,
    format_log_p,
)


def print_drift(report: Mapping[str, Any]) -> None:
    """Print a table with a row for each window, and an explanation of those that drifted.

    Args:
        report: JSON values of the report.
    """
    reference = report["reference"]
    for each in report["folders"]:
        table = make_table(
            "window",
            "images",
            "distance",
            "p",
            "strongest difference",
            "accuracy",
            "ATC",
            "",
            title=escape(each["folder"]),
        )
        for number, window in enumerate(each["windows"], 1):
            table.add_row(
                str(number),
                str(window["images"]),
                f"{window['strongest']['distance']:.3f}",
                format_log_p(window["log_p"]),
                escape(describe_strongest(window)),
                format_estimate(window["accuracy"]["confidence"]),
                format_estimate(window["accuracy"]["atc"]),
                "drift" if window["is_alarm"] else "",
            )
        print_table(table)
        for number, window in enumerate(each["windows"], 1):
            if window["is_alarm"]:
                for sentence in explain_window(window, reference["shares"]):
                    print(wrap(f"window {number}: {sentence}"))
        for image in each["unreadable"]:
            print(wrap(f"not used: {image['path']} {image['reason']}"))
        print("ALARM" if each["is_alarm"] else "no alarm")
    images = f"{reference['images']} images of the {reference['split']} split"
    print(
        wrap(
            f"Compared with {images} of {report['model']}, on which its accuracy is "
            f"{reference['accuracy']:.3f}. Accuracies of windows are estimates without labels."
        )
    )
