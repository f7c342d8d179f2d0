"""A comparison as one HTML page that needs no other file."""

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
    """An image (H,W,3 uint8) that one of two models has right, its class, and what each said."""

    image: npt.NDArray[np.uint8]
    label: str
    first: str
    second: str


def render_comparison_page(
    comparison: Mapping[str, Any], sheets: Sequence[Sequence[Sequence[ComparedImage]]]
) -> str:
    """Figures, settings that differ, and for each pair the images that only the first, or only the
    second has right.
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
