"""Settings of `monitor drift`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.call_settings import Experiment
from eyevsai.core.settings import STATE_DIR, Doc, Range, Settings, StateDir

MIN_IMAGES = 30  # of a window: with fewer, not even a large drift is significant
ALPHA = 0.001  # probability of a false alarm in one window
# Smallest KS distance of an alarm. Windows of 1,000 images or more find differences that do not
# matter; at 200 images, smaller distances are never significant at `ALPHA`.
MIN_DISTANCE = 0.1


@dataclass(frozen=True)
class DriftSettings(Settings):
    """Windows and thresholds of a drift check."""

    PANEL: ClassVar[str] = "Drift"

    window: Annotated[
        int | None,
        Range(MIN_IMAGES, 10**7),
        Doc(
            "Images per window of a stream, in the order of their names; two of three consecutive "
            "windows with drift raise an alarm. By default, each folder is one window."
        ),
    ] = None
    alpha: Annotated[
        float, Range(1e-9, 0.5), Doc("Probability of a false alarm in each window.")
    ] = ALPHA
    min_distance: Annotated[
        float,
        Range(0.0, 1.0),
        Doc("Smallest Kolmogorov-Smirnov distance of an alarm, for windows of many images."),
    ] = MIN_DISTANCE
    page: Annotated[str, Doc("Path of the HTML page.")] = "drift.html"
    state_dir: StateDir = STATE_DIR
    experiment: Experiment = None
