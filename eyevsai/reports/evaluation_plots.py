"""Plots of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from eyevsai.evaluation.calibration import Bin
from eyevsai.evaluation.corruptions import SEVERITIES
from eyevsai.evaluation.results import EvaluationResult
from eyevsai.evaluation.selective import coverage_curve
from eyevsai.reports.plots import TRAIN_COLOR, VALID_COLOR, plain


def plot_classes(by_class: Sequence[Mapping[str, float]], classes: Sequence[str]) -> Figure:
    """Plot the F1 score and the number of images of each class as bars, the worst at the bottom."""
    figure = Figure(figsize=(8, 1.2 + 0.22 * len(classes)), layout="constrained")
    axes = figure.subplots()
    ranked = sorted(zip(by_class, classes, strict=True), key=lambda pair: pair[0]["f1"])
    bars = axes.barh(
        [plain(name) for _, name in ranked], [row["f1"] for row, _ in ranked], color=VALID_COLOR
    )
    axes.bar_label(
        bars,
        [f"{row['f1']:.2f} of {row['support']:.0f}" for row, _ in ranked],
        padding=3,
        fontsize=7,
    )
    axes.set(xlabel="F1, and number of images", xlim=(0, 1.12))
    axes.set_ylim(-0.7, len(classes) - 0.3)
    axes.tick_params(axis="y", labelsize=8)
    return figure


def plot_reliability(before: Sequence[Bin], after: Sequence[Bin]) -> Figure:
    """Plot accuracy by confidence before and after temperature scaling.

    Perfect calibration is the diagonal.
    """
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="#999999", linestyle=":", label="perfectly calibrated")
    for bins, name, color in (
        (before, "before temperature scaling", TRAIN_COLOR),
        (after, "after temperature scaling", VALID_COLOR),
    ):
        axes.plot(
            [each.confidence for each in bins],
            [each.accuracy for each in bins],
            marker="o",
            color=color,
            label=name,
        )
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.02), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def plot_coverage(result: EvaluationResult) -> Figure:
    """Plot the accuracy of the most confident predictions by their share, the coverage.

    A line marks the coverage at the confidence threshold, if there is one.
    """
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*coverage_curve(result.probabilities, result.labels), color=VALID_COLOR)
    if (selection := result.selection) is not None:
        axes.axvline(
            selection.coverage,
            color="#999999",
            linestyle=":",
            label=f"threshold {selection.threshold:.3f}",
        )
        axes.legend(frameon=False)
    axes.set(xlabel="coverage", ylabel="accuracy at this coverage", xlim=(0, 1.02))
    axes.grid(alpha=0.3)
    return figure


def plot_corruptions(corrupted: Mapping[str, Sequence[float]]) -> Figure:
    """Plot accuracy by severity, one line per corruption; severity 0 are the original images."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for corruption, accuracies in corrupted.items():
        axes.plot(range(len(accuracies)), accuracies, marker="o", label=corruption)
    axes.set(xlabel="severity", ylabel="accuracy", ylim=(0, 1.02))
    axes.set_xticks(range(1 + max(SEVERITIES)))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
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
    columns = 6
    rows = max(1, -(-len(crops) // columns))
    figure = Figure(figsize=(2 * columns, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, crop, heat_map, (predicted, true) in zip(grid.flat, crops, heat, names, strict=False):
        axes.imshow(crop)
        axes.imshow(heat_map, cmap="jet", alpha=0.4, vmin=0, vmax=1)
        axes.set_title(
            plain(f"{predicted}\ntrue: {true}"),
            fontsize=8,
            color="black" if predicted == true else "#b3261e",
        )
    return figure
