"""Rollout as a self-contained HTML page, with curves of the evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from eyevsai.reports.page import NO_ORIGIN, PageOrigin, render_page
from eyevsai.reports.plots import GUIDE_COLOR, VALID_COLOR
from eyevsai.reports.rollout_table import TESTS, describe_server, describe_test, format_evidence

PREFIX = "log_evidence/"  # of the metrics with log E
COLUMNS = 2
Curves = Mapping[str, Sequence[tuple[int, float]]]


def render_rollout_page(
    status: Mapping[str, Any], curves: Curves, *, origin: PageOrigin = NO_ORIGIN
) -> str:
    """Return the HTML page of a rollout.

    Args:
        status: JSON values of the status.
        curves: metrics of the run by name, as pairs of the number of requests and the value.
        origin: date and run of the page.
    """
    has_curves = any(len(curves.get(f"{PREFIX}{name}", ())) > 1 for name in TESTS)
    return render_page(
        "rollout_page.html",
        str(status["model"]),
        "Rollout",
        origin,
        status=status,
        figure=plot_evidence(status, curves) if has_curves else None,
        titles=TESTS,
        format_evidence=format_evidence,
        describe_test=describe_test,
        describe_server=describe_server,
    )


def plot_evidence(status: Mapping[str, Any], curves: Curves) -> Figure:
    """Plot the share and the evidence of each test by the number of requests.

    Args:
        status: JSON values of the status.
        curves: metrics of the run.
    """
    tests = [each for each in status["tests"] if curves.get(f"{PREFIX}{each['name']}")]
    rows = math.ceil((len(tests) + 1) / COLUMNS)
    figure = Figure(figsize=(10, 2.4 * rows), layout="constrained")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    steps, shares = zip(*curves["share"], strict=True)
    axes[0].step(steps, [100 * share for share in shares], where="post", color=VALID_COLOR)
    axes[0].set(title="share of the candidate", ylabel="%", ylim=(0, None))
    for each, place in zip(tests, axes[1:], strict=False):
        requests, values = zip(*curves[f"{PREFIX}{each['name']}"], strict=True)
        place.plot(requests, values, color=VALID_COLOR, marker="." if len(values) < 30 else None)
        place.axhline(each["threshold"], color=GUIDE_COLOR, linestyle=":")
        place.set(title=TESTS[each["name"]], ylabel="log E")
    for place in axes:
        place.set_xlabel("requests")
        place.grid(alpha=0.3)
    for place in axes[len(tests) + 1 :]:
        place.set_visible(False)
    return figure
