"""Drift check as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from eyevsai.evaluation.image_statistics import STATISTICS
from eyevsai.reports.drift_text import explain_window, format_estimate, format_log_p
from eyevsai.reports.page import NO_ORIGIN, PageOrigin, render_page

LABELS = {
    "brightness": "Brightness (mean, 0 to 1)",
    "contrast": "Contrast (standard deviation of the brightness)",
    "sharpness": "Sharpness (logarithm of the Laplacian's variance; noise raises it)",
    "saturation": "Saturation (0 to 1)",
    "red_minus_blue": "Red minus blue",
    "aspect": "Width / height",
}


@dataclass(frozen=True)
class DriftedImage:
    """Image that differs much from the reference."""

    image: npt.NDArray[np.uint8]  # H,W,3
    name: str  # of the file
    label: str  # predicted class
    probability: float


def render_drift_page(
    report: Mapping[str, Any],
    worst: int,
    samples: Sequence[DriftedImage],
    *,
    origin: PageOrigin = NO_ORIGIN,
) -> str:
    """Return the HTML page of a drift check.

    It shows all windows; and for the one with the strongest evidence, the distances of classes and
    image statistics, the estimated class shares, and images.

    Args:
        report: JSON values of the report.
        worst: index of the window with the strongest evidence, among those of all folders.
        samples: images of this window, the most different first.
        origin: date and run of the page.
    """
    windows = [window for each in report["folders"] for window in each["windows"]]
    shares = report["reference"]["shares"]
    window = windows[worst]
    columns = sorted(
        [window["confidence"], window["predictions"], *window["classes"]],
        key=lambda each: -float(each["distance"]),
    )
    return render_page(
        "drift_page.html",
        str(report["model"]),
        "Drift",
        origin,
        report=report,
        windows=windows,
        worst=worst,
        window=window,
        columns=columns,
        statistics=[
            (LABELS[each["name"]], STATISTICS[each["name"]], each)
            for each in window["image_statistics"]
        ],
        sentences=explain_window(window, shares),
        shares=[
            (name, shares[name], share, window["label_shift"]["errors"][name])
            for name, share in window["label_shift"]["shares"].items()
        ],
        samples=samples,
        format_p=format_log_p,
        format_estimate=format_estimate,
    )
