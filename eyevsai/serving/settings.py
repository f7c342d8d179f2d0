"""What a person may say of predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.settings import Doc, Range, Settings


@dataclass(frozen=True)
class PredictSettings(Settings):
    """What is told of each image."""

    PANEL: ClassVar[str] = "Prediction"

    top_k: Annotated[int, Range(1, 10**6), Doc("Classes to print of each image.")] = 1
    threshold: Annotated[
        float | None,
        Range(0.0, 1.0),
        Doc("Say unsure below this probability; that of the version by default."),
    ] = None
    trusted: Annotated[
        bool, Doc("Open an export in which code can be hidden, since I made it myself.")
    ] = False
