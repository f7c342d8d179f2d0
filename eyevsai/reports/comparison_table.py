"""Comparison of models as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape

from eyevsai.core.terminal import wrap_items
from eyevsai.reports.console import make_table, print_table


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """Print metrics with intervals, settings that differ, and McNemar's test of each pair.

    Settings that not all models have are counted only: models of two families have dozens.
    """
    models = comparison["models"]
    table = make_table(
        f"{comparison['images']} test images", *(escape(model["title"]) for model in models)
    )
    intervals = [model["interval"] for model in models]
    table.add_row(
        "accuracy, 95 %", *(f"{each['low']:.4f} to {each['high']:.4f}" for each in intervals)
    )
    for name in dict.fromkeys(name for model in models for name in model["metrics"]):
        values = [model["metrics"].get(name) for model in models]
        table.add_row(name, *("" if value is None else _format(value) for value in values))
    shared = {name: values for name, values in comparison["settings"].items() if None not in values}
    for name, values in shared.items():
        table.add_row(name, *(escape(str(value)) for value in values), style="dim")
    print_table(table)
    if num_others := len(comparison["settings"]) - len(shared):
        print(f"{num_others} settings that not all of the models have are on the page.")
    for pair in comparison["pairs"]:
        difference = pair["difference"]
        parts = (
            f"Images that only {pair['first']} classifies correctly: {difference['only_first']};",
            f"only {pair['second']}: {difference['only_second']}.",
            f"McNemar's exact test: p = {difference['p_value']:.4g}",
        )
        print(wrap_items(parts, "", " "))


def _format(value: float) -> str:
    """Return a metric with four digits: after the point for shares, in all for speeds."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.4g}"
