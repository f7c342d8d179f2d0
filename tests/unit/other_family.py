"""A family that exists for tests only: what the command line says when there are several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.settings import Doc, Range
from eyevsai.models.base import Family, Variation
from eyevsai.training.settings import NetworkSettings


@dataclass(frozen=True)
class OtherSettings(NetworkSettings):
    PANEL: ClassVar[str] = "other"

    petals: Annotated[int, Range(1, 99), Doc("Channels that each layer adds.")] = 32


FAMILY = Family(
    "other",
    "Another family",
    "nowhere:Learner",
    {"dense": Variation("Dense", "t", "s", OtherSettings)},
)
