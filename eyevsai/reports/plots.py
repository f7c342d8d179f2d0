"""Plots of a run.

Figures are created without pyplot, which would keep each one in memory.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from eyevsai.explanation.top_losses import TopLoss  # a type only: its module loads scikit-learn

TRAIN_COLOR, VALID_COLOR, GUIDE_COLOR = "#8da0cb", "#1b5e9e", "#999999"
SHORT = 3  # characters of a class name that is not turned in a confusion matrix
GRID_COLUMNS = 6  # of a grid of images
TITLE_WIDTH = 26  # characters of a title above an image of a grid


def plot_curves(rows: Sequence[Mapping[str, float]], best_epoch: int) -> Figure:
    """Plot loss and accuracy of the train and valid splits by epoch.

    Args:
        rows: metrics of each epoch.
        best_epoch: epoch to mark, from 1.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = range(1, len(rows) + 1)
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, color in (("train", TRAIN_COLOR), ("valid", VALID_COLOR)):
            values = [row[f"{split}/{name}"] for row in rows]
            axes.plot(
                epochs, values, color=color, label=split, marker="." if len(rows) < 30 else None
            )
        axes.axvline(best_epoch, color=GUIDE_COLOR, linestyle=":", label=f"best epoch {best_epoch}")
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def plain(name: str) -> str:
    """Return a name with escaped dollar signs.

    matplotlib would render the text between two dollar signs as a formula.
    """
    return name.replace("$", r"\$")


def wrap(*lines: str) -> str:
    """Return lines as a title above an image: long ones are wrapped, dollar signs are escaped."""
    return plain("\n".join(textwrap.fill(line, TITLE_WIDTH) for line in lines))


def plot_confusion_matrix(matrix: npt.NDArray[np.int64], classes: Sequence[str]) -> Figure:
    """Plot the confusion matrix: colours are shares of the true class, labels are counts."""
    size_in = max(5.0, 0.28 * len(classes) + 2)
    figure = Figure(figsize=(size_in, size_in), layout="constrained")
    axes = figure.subplots()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks, names = range(len(classes)), [plain(name) for name in classes]
    is_short = max(map(len, names), default=0) <= SHORT
    axes.set_xticks(ticks, names, rotation=0 if is_short else 90, fontsize=8)
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    for row, column in np.argwhere(matrix > 0):
        text_color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(
            column,
            row,
            str(matrix[row, column]),
            ha="center",
            va="center",
            fontsize=7,
            color=text_color,
        )
    return figure


def plot_importance(importance: Mapping[str, float], split: str) -> Figure:
    """Plot the drop in accuracy on `split` without each group of features as bars."""
    figure = Figure(figsize=(6, 1 + 0.5 * len(importance)), layout="constrained")
    axes = figure.subplots()
    ranked = sorted(importance.items(), key=lambda pair: pair[1])
    points = [100 * value for _, value in ranked]
    bars = axes.barh([name for name, _ in ranked], points, color=VALID_COLOR)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.margins(x=0.15)
    axes.set(
        xlabel=f"drop in {split} accuracy when shuffled, in percentage points",
        ylabel="features",
    )
    return figure


def plot_top_losses(
    mistakes: Sequence[TopLoss], images: Sequence[npt.NDArray[np.uint8]], classes: Sequence[str]
) -> Figure:
    """Plot a grid of wrongly classified images with predicted and true class.

    Args:
        mistakes: wrong predictions, in the order of the grid.
        images: their images, each H,W,3.
        classes: class names.
    """
    if not mistakes:
        figure = Figure(figsize=(4, 1))
        figure.suptitle("No errors on this split.", y=0.6)
        return figure
    columns = min(GRID_COLUMNS, len(mistakes))
    rows = -(-len(mistakes) // columns)
    figure = Figure(figsize=(2 * columns, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, mistake, image in zip(grid.flat, mistakes, images, strict=False):
        axes.imshow(image)
        prediction = f"{classes[mistake.predicted]} {mistake.probability:.0%}"
        axes.set_title(wrap(prediction, f"true: {classes[mistake.truth]}"), fontsize=8)
    return figure
