"""Plots that compare all models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from eyevsai.models.factory import FAMILIES
from eyevsai.reports.difficulty import is_scored
from eyevsai.reports.model_versions import ModelVersion, ranking_key
from eyevsai.reports.plots import VALID_COLOR, plain
from eyevsai.reports.units import format_percent

TOP = 20  # models
CAPTIONS = {
    "accuracy_heatmap": "Accuracy by dataset and model",
    "performance_distribution": "Accuracy by family",
    "top_models": "The most accurate models",
}


def plot_summary(versions: Sequence[ModelVersion]) -> dict[str, Figure]:
    """Return all plots by a key of `CAPTIONS`; placeholders if no model has an accuracy."""
    scored = sorted((each for each in versions if is_scored(each.accuracy)), key=ranking_key)
    draws = (plot_heatmap, plot_distribution, plot_top)
    return {
        name: draw(scored) if scored else _empty_plot()
        for name, draw in zip(CAPTIONS, draws, strict=True)
    }


def plot_heatmap(versions: Sequence[ModelVersion]) -> Figure:
    """Plot accuracy in % by dataset and model; combinations without a model are grey."""
    datasets, models = (
        sorted({each.dataset for each in versions}),
        sorted({each.model for each in versions}),
    )
    values = np.full((len(datasets), len(models)), np.nan)
    for each in versions:
        accuracy_percent = 100 * (each.accuracy or 0.0)
        values[datasets.index(each.dataset), models.index(each.model)] = accuracy_percent
    figure = Figure(
        figsize=(3.5 + 0.6 * len(models), 2.5 + 0.4 * len(datasets)), layout="constrained"
    )
    axes = figure.subplots()
    axes.set_facecolor("#e6e6e6")
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(
        range(len(models)), [plain(name) for name in models], rotation=60, ha="right", fontsize=8
    )
    axes.set_yticks(range(len(datasets)), [plain(name) for name in datasets], fontsize=8)
    for row, column in np.argwhere(~np.isnan(values)):
        text_color = "white" if values[row, column] > 50 else "black"
        axes.text(
            column,
            row,
            f"{values[row, column]:.1f}",
            ha="center",
            va="center",
            fontsize=8,
            color=text_color,
        )
    axes.set(xlabel="model", ylabel="dataset")
    figure.colorbar(image, ax=axes, label="accuracy in %")
    return figure


def plot_distribution(versions: Sequence[ModelVersion]) -> Figure:
    """Plot the accuracies of each family: a box of the quartiles, and a point for each model."""
    families = [
        name
        for name in (*FAMILIES, *sorted({each.family for each in versions} - FAMILIES.keys()))
        if any(each.family == name for each in versions)
    ]
    accuracies_by_family = [
        [each.accuracy or 0.0 for each in versions if each.family == name] for name in families
    ]
    figure = Figure(figsize=(2.5 + 1.3 * len(families), 4), layout="constrained")
    axes = figure.subplots()
    axes.boxplot(
        accuracies_by_family, widths=0.5, showfliers=False, medianprops={"color": VALID_COLOR}
    )
    for position, accuracies in enumerate(accuracies_by_family, 1):
        x = (
            position + np.linspace(-0.15, 0.15, len(accuracies))
            if len(accuracies) > 1
            else [position]
        )
        axes.scatter(x, accuracies, s=14, color=VALID_COLOR, alpha=0.6, zorder=3)
    axes.set_xticks(range(1, len(families) + 1), [plain(name) for name in families])
    axes.set(xlabel="family", ylabel="accuracy", ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None, symbol=" %"))
    axes.grid(axis="y", alpha=0.3)
    return figure


def plot_top(versions: Sequence[ModelVersion]) -> Figure:
    """Plot the accuracies of the first models of a ranking as bars, the best on top."""
    best = versions[:TOP][::-1]
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(best)), layout="constrained")
    axes = figure.subplots()
    accuracies = [each.accuracy or 0.0 for each in best]
    bars = axes.barh(range(len(best)), accuracies, color=VALID_COLOR)
    axes.bar_label(bars, [format_percent(each) for each in accuracies], padding=3, fontsize=8)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=None, symbol=" %"))
    axes.set_yticks(
        range(len(best)), [plain(f"{each.key} {each.number}") for each in best], fontsize=8
    )
    axes.set(xlabel="accuracy", xlim=(0, 1.12), ylim=(-0.7, len(best) - 0.3))
    return figure


def _empty_plot() -> Figure:
    figure = Figure(figsize=(6, 2))
    figure.suptitle("No model has an accuracy above zero yet.", y=0.5)
    return figure
