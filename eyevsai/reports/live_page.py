"""Result of `monitor live` as a self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from eyevsai.reports.live_text import TITLES, describe_risk, format_time, list_cells
from eyevsai.reports.page import NO_ORIGIN, PageOrigin, render_page
from eyevsai.reports.plots import GUIDE_COLOR, TRAIN_COLOR, VALID_COLOR

LONG_H = 72.0  # period from which times are in days
MARKED = 40  # windows up to which each has a mark


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
        plots=plot_windows(report) if compared else [],
        titles=TITLES,
        rows=[(each, list_cells(each)) for each in reversed(windows)],
        sources=sorted(report["labels"].get("sources", {}).items()),
        format_time=format_time,
    )


def plot_windows(report: Mapping[str, Any]) -> list[tuple[str, Figure]]:
    """Plot traffic, latency, drift and estimated accuracy of the windows by time.

    Each has a figure of its own, so that it can be read on a narrow screen.

    Args:
        report: JSON values of the measurement, with at least one compared window.

    Returns:
        Captions and figures.
    """
    windows = [each for each in report["windows"] if each["comparison"] is not None]
    ages_h = [(each["last_at"] - report["until"]) / 3600 for each in windows]
    is_long = min(ages_h) < -LONG_H
    times = [age / 24 for age in ages_h] if is_long else ages_h
    label = f"{'days' if is_long else 'hours'} before the measurement"
    comparisons, limits = [each["comparison"] for each in windows], report["limits"]
    hours = [max(each["last_at"] - each["first_at"], 1.0) / 3600 for each in windows]
    rates = [each["answers"] / hour for each, hour in zip(windows, hours, strict=True)]
    log_p = [-each["log_p"] / math.log(10) for each in comparisons]
    estimates = {
        name: [100 * each["accuracy"][method]["accuracy"] for each in comparisons]
        for name, method in (("mean confidence", "confidence"), ("ATC", "atc"))
    }
    p99 = [math.nan if each["p99_ms"] is None else each["p99_ms"] for each in windows]
    return [
        ("Traffic", _plot(times, {"answers per hour": rates}, label, starts_at_0=True)),
        (
            "Model time, 99th percentile",
            _plot(times, {"milliseconds": p99}, label, limits["latency_ms"], starts_at_0=True),
        ),
        (
            "Difference from the reference",
            _plot(times, {"-log10 p": log_p}, label, -math.log10(report["alpha"])),
        ),
        (
            "Estimated accuracy",
            _plot(times, estimates, label, 100 * limits["accuracy"], unit="%"),
        ),
    ]


def _plot(
    times: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    label: str,
    limit: float | None = None,
    *,
    unit: str = "",
    starts_at_0: bool = False,
) -> Figure:
    """Plot curves by time.

    Args:
        times: time of each window.
        curves: values by name; the name of a single one is the label of its axis.
        label: label of the time axis.
        limit: value of a dotted line; None for none.
        unit: unit of several curves.
        starts_at_0: the axis of the values includes 0.
    """
    figure = Figure(figsize=(6, 2.8), layout="constrained")
    axes = figure.subplots()
    marker = "." if len(times) <= MARKED else None
    for (name, values), color in zip(curves.items(), (VALID_COLOR, TRAIN_COLOR), strict=False):
        shown = name if len(curves) > 1 else None
        axes.plot(times, values, color=color, label=shown, marker=marker)
    if limit is not None:
        axes.axhline(limit, color=GUIDE_COLOR, linestyle=":", label="limit")
    axes.set(xlabel=label, ylabel=unit or next(iter(curves)))
    if starts_at_0:
        axes.set_ylim(bottom=0)
    if limit is not None or len(curves) > 1:
        axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure
