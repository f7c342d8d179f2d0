"""Evaluation of a model as a self-contained HTML page."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.figure import Figure

from eyevsai.evaluation.corruptions import SEVERITIES
from eyevsai.evaluation.metric_names import IMPORTANCE, TEST
from eyevsai.evaluation.results import EvaluationResult
from eyevsai.evaluation.significance import Interval
from eyevsai.reports.evaluation_plots import describe_left_out, select_bins
from eyevsai.reports.page import NO_ORIGIN, PageOrigin, render_page
from eyevsai.reports.units import format_interval

CAPTIONS = {
    "confusion_matrix": "Confusion matrix: true classes in rows, predicted classes in columns",
    "classes": "F1 of each class",
    "reliability": "Reliability diagram: accuracy by confidence",
    "coverage": "Accuracy by coverage: the least confident predictions abstain",
    "corruptions": "Accuracy on corrupted images",
    "top_losses": "Top losses: most confident errors",
    "grad_cam": "Grad-CAM heat maps; wrong predictions in red",
    "importance": "Permutation importance of each group of features",
}
PHOTOGRAPHS = frozenset({"top_losses", "grad_cam"})  # plots that a dark page must not invert
HEADLINES = (
    "top5_accuracy",
    "balanced_accuracy",
    "macro_f1",
    "loss",
    "ece",
    "images_per_s",
    "latency_ms",
)


@dataclass(frozen=True)
class CorruptionRow:
    """Accuracies on one kind of corruption."""

    name: str  # a key of `CORRUPTIONS`
    clean: float  # on the same images without corruption
    corrupted: tuple[float, ...]  # by severity
    mean: float  # of the severities


def render_evaluation_page(
    title: str,
    dataset: str,
    result: EvaluationResult,
    metrics: Mapping[str, float],
    plots: Mapping[str, Figure],
    *,
    origin: PageOrigin = NO_ORIGIN,
) -> str:
    """Return the HTML page of an evaluation.

    It shows headline metrics, all metrics, confused classes, robustness, calibration, metrics by
    class and plots.

    Args:
        title: heading of the page.
        dataset: name of the dataset.
        result: predictions and labels.
        metrics: metrics by name, including the accuracy with its interval.
        plots: figures by a key of `CAPTIONS`; missing ones are left out.
        origin: date of the evaluation, and the run with its results.
    """
    bins = result.bins(calibrated=True)
    return render_page(
        "evaluation_page.html",
        title,
        "Evaluation",
        origin,
        dataset=dataset,
        result=result,
        metrics=metrics,
        prefix=TEST,
        interval=format_interval(Interval(metrics["accuracy_low"], metrics["accuracy_high"])),
        headlines=HEADLINES,
        listed=_list_metrics(result, metrics),
        corruptions=_list_corruptions(result),
        severities=SEVERITIES,
        bins=select_bins(bins),
        plots=plots,
        captions=CAPTIONS,
        photographs=PHOTOGRAPHS,
        notes={"reliability": describe_left_out(bins)},
        by_class=sorted(
            zip(result.classes, result.metrics_by_class(), strict=True),
            key=lambda pair: pair[1]["f1"],
        ),
        confused=result.most_confused(),
    )


def _list_metrics(result: EvaluationResult, metrics: Mapping[str, float]) -> list[str]:
    """Return the metrics for the table of all metrics; those of corruptions have their own."""
    in_corruptions = {f"{kind}_{severity}" for kind in result.corrupted for severity in SEVERITIES}
    groups = [name for name in metrics if name.startswith(IMPORTANCE)]
    others = [name for name in metrics if name not in in_corruptions and name not in groups]
    return [*others, *groups]


def _list_corruptions(result: EvaluationResult) -> list[CorruptionRow]:
    """Return a row for each kind of corruption; empty if none was measured."""
    return [
        CorruptionRow(name, clean, tuple(corrupted), statistics.fmean(corrupted))
        for name, (clean, *corrupted) in result.corrupted.items()
    ]
