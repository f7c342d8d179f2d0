"""Declaration of a model family and its variations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eyevsai.core.legacy_names import rename_settings
from eyevsai.core.settings import Settings


@dataclass(frozen=True)
class Variation:
    """Variation of a family: descriptions for engineers and laypeople, settings and presets."""

    title: str
    technical: str
    simple: str
    settings: type[Settings]
    # settings that replace the defaults, by compute budget
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    papers: tuple[str, ...] = ()
    # Probabilities of tree models jump at split thresholds, so the parity check of an export
    # allows for differences that a continuous model cannot have.
    piecewise_constant: bool = False

    def complete(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """Return stored settings under their current names, with those that did not exist yet.

        These get the value that equals the code of that time (`Settings.LEGACY`).
        """
        return {**self.settings.LEGACY, **rename_settings(stored)}


@dataclass(frozen=True)
class Family:
    """Family of models. Its first variation is the default.

    `learner` is the learner class as `module:class`, imported when a learner is built.
    """

    name: str
    title: str
    learner: str
    variations: Mapping[str, Variation]
    # library that fits the model; the saved model consists of tensors in any case
    framework: str = "pytorch"
    # optional extras of this project that the family can use, with the benefit of each
    extras: Mapping[str, str] = field(default_factory=dict)
