"""Result of `monitor live` as a self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from eyevsai.reports.live_text import TITLES, describe_risk, format_time, list_cells
from eyevsai.reports.page import NO_ORIGIN, PageOrigin, render_page
from eyevsai.reports.plots import GUIDE_COLOR, TRAIN_COLOR, VALID_COLOR


def render_live_page(report: Mapping[str, Any], *, origin: PageOrigin = NO_ORIGIN) -> str:
    """Return the HTML page of a measurement: alerts, curves by time, windows and labels.

    Args:
        report: JSON values of the measurement.
        origin: date of the page.
    """
    windows = report["windows"]
    compared = [each for each in windows if each["comparison"] is not None]
    return render_page(
        "live_page.html",
        str(report["model"]),
        "Monitoring",
        origin,
        report=report,
        risk_text=describe_risk(report["risk"]),
        current=compared[-1] if compared else None,
        failed=sum(each["failed"] for each in windows),
        plot=plot_windows(report) if compared else None,
        titles=TITLES,
        rows=[(each, list_cells(each)) for each in reversed(windows)],
        sources=sorted(report["labels"].get("sources", {}).items()),
        format_time=format_time,
    )


def plot_windows(report: Mapping[str, Any]) -> Figure:
    """Plot traffic, latency, drift and estimated accuracy of the windows by time.

    Args:
        report: JSON values of the measurement, with at least one compared window.
    """
    windows = [each for each in report["windows"] if each["comparison"] is not None]
    times = [(each["last_at"] - report["until"]) / 3600 for each in windows]
    comparisons = [each["comparison"] for each in windows]
    figure = Figure(figsize=(10, 6), layout="constrained")
    traffic, latency, drift, accuracy = figure.subplots(2, 2, sharex=True).flat
    hours = [max(each["last_at"] - each["first_at"], 1.0) / 3600 for each in windows]
    rates = [each["answers"] / hour for each, hour in zip(windows, hours, strict=True)]
    _plot(traffic, times, rates, "answers per hour")
    _plot(latency, times, [each["p99_ms"] or math.nan for each in windows], "p99, ms")
    log_p = [-each["log_p"] / math.log(10) for each in comparisons]
    _plot(drift, times, log_p, "drift, -log10 p")
    drift.axhline(3, color=GUIDE_COLOR, linestyle=":")
    for method, color in (("confidence", VALID_COLOR), ("atc", TRAIN_COLOR)):
        values = [each["accuracy"][method]["accuracy"] for each in comparisons]
        accuracy.plot(times, values, color=color, label=method, marker=".")
    accuracy.axhline(report["limits"]["accuracy"], color=GUIDE_COLOR, linestyle=":")
    accuracy.set(ylabel="estimated accuracy")
    accuracy.legend(frameon=False)
    accuracy.grid(alpha=0.3)
    for axes in (drift, accuracy):
        axes.set(xlabel="hours before the measurement")
    return figure


def _plot(axes: Any, times: Sequence[float], values: Sequence[float], label: str) -> None:
    axes.plot(times, values, color=VALID_COLOR, marker=".")
    axes.set(ylabel=label)
    axes.grid(alpha=0.3)
