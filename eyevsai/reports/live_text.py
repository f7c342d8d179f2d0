"""Results of `monitor live` in words and numbers, for the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from eyevsai.reports.drift_text import format_estimate, format_log_p


def format_time(seconds: float) -> str:
    """Return a Unix time as local date and time: `2026-03-03 12:00`."""
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M}"


def format_ms(value: float | None) -> str:
    """Return milliseconds, or a dash if they are unknown."""
    return "-" if value is None else f"{value:.1f}"


def describe_risk(risk: Mapping[str, Any]) -> str:
    """Return a sentence about the labels, and the evidence that the error rate is too high."""
    if not risk["labels"]:
        return "No labels: the error rate is unknown."
    verdict = "exceeds" if risk["is_exceeded"] else "is not shown to exceed"
    return (
        f"{risk['errors']} of {risk['labels']} labelled answers are wrong; the error rate {verdict}"
        f" the limit of {risk['limit']:.1%} (log evidence {risk['log_evidence']:.1f}, alert from "
        "4.6)."
    )


def list_cells(window: Mapping[str, Any]) -> list[str]:
    """Return the columns of a window's row: from traffic to the explanation of a drift."""
    comparison = window["comparison"]
    cells = [
        format_time(window["first_at"]),
        format_time(window["last_at"]),
        f"{window['answers']:,}",
        str(window["failed"]),
        format_ms(window["p50_ms"]),
        format_ms(window["p99_ms"]),
    ]
    if comparison is None:
        return [*cells, "-", "-", "-", "-", "too few answers"]
    words = ", ".join(comparison["explanation"])
    return [
        *cells,
        f"{comparison['strongest']['distance']:.3f}",
        format_log_p(comparison["log_p"]),
        format_estimate(comparison["accuracy"]["confidence"]),
        format_estimate(comparison["accuracy"]["atc"]),
        f"drift: {words}".rstrip(": ") if window["is_drift"] else words,
    ]


TITLES = (
    "From",
    "To",
    "Answers",
    "Failed",
    "p50 ms",
    "p99 ms",
    "Distance",
    "p",
    "Accuracy",
    "ATC",
    "Images",
)
