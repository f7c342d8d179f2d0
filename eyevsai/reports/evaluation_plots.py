"""Plots of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from eyevsai.evaluation.calibration import BINS, Bin
from eyevsai.evaluation.corruptions import SEVERITIES
from eyevsai.evaluation.results import EvaluationResult
from eyevsai.evaluation.selective import coverage_curve
from eyevsai.reports.plots import GRID_COLUMNS, GUIDE_COLOR, TRAIN_COLOR, VALID_COLOR, plain, wrap
from eyevsai.reports.units import format_percent, label_corruption

MIN_BIN_IMAGES = 5  # of a bin of the reliability diagram
WRONG_COLOR = "#b3261e"


def plot_classes(by_class: Sequence[Mapping[str, float]], classes: Sequence[str]) -> Figure:
    """Plot the F1 score and the number of images of each class as bars, the worst at the bottom."""
    figure = Figure(figsize=(6, 1.2 + 0.22 * len(classes)), layout="constrained")
    axes = figure.subplots()
    ranked = sorted(zip(by_class, classes, strict=True), key=lambda pair: pair[0]["f1"])
    bars = axes.barh(
        [plain(name) for _, name in ranked], [row["f1"] for row, _ in ranked], color=VALID_COLOR
    )
    axes.bar_label(
        bars,
        [f"{format_percent(row['f1'])}, {row['support']:.0f} images" for row, _ in ranked],
        padding=3,
        fontsize=7,
    )
    axes.set(xlabel="F1", ylabel="class", xlim=(0, 1.4))
    axes.set_xticks(np.linspace(0, 1, 6))
    _use_percent(axes.xaxis)
    axes.set_ylim(-0.7, len(classes) - 0.3)
    axes.tick_params(axis="y", labelsize=8)
    return figure


def select_bins(bins: Sequence[Bin]) -> list[Bin]:
    """Return the bins with at least `MIN_BIN_IMAGES` images: the accuracy of fewer is chance."""
    return [each for each in bins if each.count >= MIN_BIN_IMAGES]


def describe_left_out(bins: Sequence[Bin]) -> str:
    """Return a sentence on the bins that `select_bins` leaves out; empty if there are none."""
    left_out = [each.count for each in bins if each.count < MIN_BIN_IMAGES]
    if not left_out:
        return ""
    number = f"{len(left_out)} bin" + ("s" if len(left_out) > 1 else "")
    images = f"{sum(left_out)} image" + ("s" if sum(left_out) > 1 else "")
    return (
        f"Not drawn: {number} with under {MIN_BIN_IMAGES} images, {images} of "
        f"{sum(each.count for each in bins)}."
    )


def plot_reliability(before: Sequence[Bin], after: Sequence[Bin]) -> Figure:
    """Plot accuracy and number of images by confidence, before and after temperature scaling.

    Perfect calibration is the diagonal. Bins with under `MIN_BIN_IMAGES` images are not drawn; the
    number of those after temperature scaling is below the plot.
    """
    figure = Figure(figsize=(6, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color=GUIDE_COLOR, linestyle=":", label="perfectly calibrated")
    width = 0.4 / BINS
    for bins, name, color, shift in (
        (before, "before temperature scaling", TRAIN_COLOR, -width / 2),
        (after, "after temperature scaling", VALID_COLOR, width / 2),
    ):
        drawn = select_bins(bins)
        upper.plot(
            [each.confidence for each in drawn],
            [each.accuracy for each in drawn],
            marker="o",
            color=color,
            label=name,
        )
        centers = [_bin_center(each) + shift for each in drawn]
        bars = lower.bar(centers, [each.count for each in drawn], width=width, color=color)
    lower.bar_label(bars, padding=2, fontsize=7)  # those after temperature scaling
    upper.set(ylabel="accuracy", ylim=(0, 1.02))
    lower.set(xlabel="confidence", ylabel="images", xlim=(0, 1.02))
    lower.margins(y=0.25)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
    _use_percent(upper.yaxis, lower.xaxis)
    figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=8)
    if note := describe_left_out(after):
        figure.supxlabel(note, fontsize=8)
    return figure


def _bin_center(each: Bin) -> float:
    """Return the confidence in the middle of the interval of a bin."""
    return (min(int(each.confidence * BINS), BINS - 1) + 0.5) / BINS


def _use_percent(*axes: Axis) -> None:
    """Label axes of shares in percent."""
    for each in axes:
        each.set_major_formatter(PercentFormatter(xmax=1, decimals=None, symbol=" %"))


def plot_coverage(result: EvaluationResult) -> Figure:
    """Plot the accuracy of the most confident predictions by their share, the coverage.

    A line marks the coverage at the confidence threshold, if there is one.
    """
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*coverage_curve(result.probabilities, result.labels), color=VALID_COLOR)
    if (selection := result.selection) is not None:
        axes.axvline(
            selection.coverage,
            color=GUIDE_COLOR,
            linestyle=":",
            label=f"threshold {selection.threshold:.3f}",
        )
        axes.legend(frameon=False)
    axes.set(xlabel="coverage (share of images)", ylabel="accuracy of these images", xlim=(0, 1.02))
    axes.grid(alpha=0.3)
    _use_percent(axes.xaxis, axes.yaxis)
    return figure


def plot_corruptions(corrupted: Mapping[str, Sequence[float]]) -> Figure:
    """Plot accuracy by severity, one line per corruption; severity 0 are the original images."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for corruption, accuracies in corrupted.items():
        axes.plot(
            range(len(accuracies)), accuracies, marker="o", label=label_corruption(corruption)
        )
    axes.set(xlabel="severity (0: clean images)", ylabel="accuracy", ylim=(0, 1.02))
    axes.set_xticks(range(1 + max(SEVERITIES)))
    axes.grid(alpha=0.3)
    _use_percent(axes.yaxis)
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    return figure


def plot_cams(
    crops: Sequence[npt.NDArray[np.uint8]],
    heat: npt.NDArray[np.float32],
    names: Sequence[tuple[str, str]],
) -> Figure:
    """Plot a grid of images under their heat maps, with predicted and true class.

    Args:
        crops: images, each S,S,3.
        heat: heat maps N,S,S, from 0 to 1.
        names: predicted and true class of each image; the title of a wrong prediction is red.
    """
    columns = max(1, min(GRID_COLUMNS, len(crops)))
    rows = max(1, -(-len(crops) // columns))
    figure = Figure(figsize=(2 * columns, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, crop, heat_map, (predicted, true) in zip(grid.flat, crops, heat, names, strict=False):
        axes.imshow(crop)
        axes.imshow(heat_map, cmap="jet", alpha=0.4, vmin=0, vmax=1)
        axes.set_title(
            wrap(predicted, f"true: {true}"),
            fontsize=8,
            color="black" if predicted == true else WRONG_COLOR,
        )
    return figure
