"""Settings of `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.settings import Doc, Range, Settings


@dataclass(frozen=True)
class PredictSettings(Settings):
    """Output for each image, and the formats of models that may be opened."""

    PANEL: ClassVar[str] = "Prediction"

    top_k: Annotated[int, Range(1, 10**6), Doc("Number of classes to print per image.")] = 1
    threshold: Annotated[
        float | None,
        Range(0.0, 1.0),
        Doc("Probability below which the label is unsure; that of the version by default."),
    ] = None
    trusted: Annotated[
        bool, Doc("Open an export format that can contain code; only for exports that you made.")
    ] = False
