"""Comparison of models as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from eyevsai.evaluation.significance import Interval
from eyevsai.reports.page import NO_ORIGIN, PageOrigin, render_page
from eyevsai.reports.units import describe_metric, format_interval


@dataclass(frozen=True)
class ComparedImage:
    """Test image that only one of two models classifies correctly."""

    image: npt.NDArray[np.uint8]  # H,W,3
    label: str  # true class
    first: str  # class predicted by the first model
    second: str  # class predicted by the second model


def render_comparison_page(
    comparison: Mapping[str, Any],
    sheets: Sequence[Sequence[Sequence[ComparedImage]]],
    *,
    origin: PageOrigin = NO_ORIGIN,
    run_urls: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return the HTML page of a comparison.

    It shows metrics, McNemar's test of each pair, settings that differ and, for each pair, the
    images that only one of the two models classifies correctly.

    Args:
        comparison: comparison as JSON values.
        sheets: for each pair, the images that only the first model has correct, then those that
            only the second has correct.
        origin: date of the comparison.
        run_urls: page of a run in MLflow's UI, by run id; the id of another run is not a link.
    """
    models = comparison["models"]
    names = list(dict.fromkeys(name for model in models for name in model["metrics"]))
    return render_page(
        "comparison_page.html",
        f"{len(models)} models on the same {comparison['images']} test images",
        "Comparison",
        origin,
        **comparison,
        names=[name for name in names if name != "accuracy"],
        best={name: _find_best(models, name) for name in names},
        intervals=[format_interval(Interval(**model["interval"])) for model in models],
        run_urls=run_urls,
        sheets=list(zip(comparison["pairs"], sheets, strict=True)),
    )


def _find_best(models: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Return the best value of a metric; None if not all values can be ranked, or all are equal."""
    values = [model["metrics"].get(name) for model in models]
    if any(value is None for value in values) or len(set(values)) < 2:
        return None
    choose = min if describe_metric(name).lower_is_better else max
    best: float = choose(values)
    return best
