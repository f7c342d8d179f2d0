"""Comparison of models as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment, PackageLoader, StrictUndefined

from eyevsai.reports.inline_images import encode_thumbnail


@dataclass(frozen=True)
class ComparedImage:
    """Test image that only one of two models classifies correctly."""

    image: npt.NDArray[np.uint8]  # H,W,3
    label: str  # true class
    first: str  # class predicted by the first model
    second: str  # class predicted by the second model


def render_comparison_page(
    comparison: Mapping[str, Any], sheets: Sequence[Sequence[Sequence[ComparedImage]]]
) -> str:
    """Return the HTML page of a comparison.

    It shows metrics, settings that differ and, for each pair of models, the images that only one of
    the two classifies correctly.

    Args:
        comparison: comparison as JSON values.
        sheets: for each pair, the images that only the first model has correct, then those that
            only the second has correct.
    """
    environment = Environment(
        loader=PackageLoader("eyevsai.reports"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["thumbnail"] = encode_thumbnail
    names = list(dict.fromkeys(name for model in comparison["models"] for name in model["metrics"]))
    page: str = environment.get_template("comparison_page.html").render(
        **comparison, names=names, sheets=list(zip(comparison["pairs"], sheets, strict=True))
    )
    return page
