"""What a family of models declares of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eyevsai.core.settings import Settings


@dataclass(frozen=True)
class Variation:
    """One named variation of a family, described for engineers and for anyone."""

    title: str
    technical: str
    simple: str
    settings: type[Settings]
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # settings by budget
    papers: tuple[str, ...] = ()
    # as trees do: where a number falls on another side, the answer jumps
    piecewise_constant: bool = False


@dataclass(frozen=True)
class Family:
    """A family; its first variation is the default. `learner` is `module:class`, imported when
    built.
    """

    name: str
    title: str
    learner: str
    variations: Mapping[str, Variation]
    framework: str = "pytorch"  # that fits it; whatever that is, what is kept are tensors
    # of this project, which it can do without, and their gain
    extras: Mapping[str, str] = field(default_factory=dict)
