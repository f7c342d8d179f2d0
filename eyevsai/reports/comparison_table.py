"""Comparison of models as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_comparison(comparison: Mapping[str, Any]) -> None:
    """Print metrics with intervals, settings that differ, and McNemar's test of each pair."""
    console, models = Console(), comparison["models"]
    table = Table(
        f"{comparison['images']} test images", *(escape(model["title"]) for model in models)
    )
    intervals = [model["interval"] for model in models]
    table.add_row(
        "accuracy, 95 %", *(f"{each['low']:.4f} to {each['high']:.4f}" for each in intervals)
    )
    for name in dict.fromkeys(name for model in models for name in model["metrics"]):
        values = [model["metrics"].get(name) for model in models]
        table.add_row(name, *("" if value is None else f"{value:.4g}" for value in values))
    for name, values in comparison["settings"].items():
        table.add_row(
            name, *("" if value is None else escape(str(value)) for value in values), style="dim"
        )
    console.print(table)
    for pair in comparison["pairs"]:
        difference = pair["difference"]
        console.print(
            f"Images that only {pair['first']} classifies correctly: {difference['only_first']}; "
            f"only {pair['second']}: {difference['only_second']}. "
            f"McNemar's exact test: p = {difference['p_value']:.4g}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
