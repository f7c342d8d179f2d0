"""Minimum of the metric that a version must reach to be promoted: of the policy or by chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eyevsai.evaluation.chance import STANDARD_ERRORS, Chance, chance_of
from eyevsai.registry.settings import Policy
from eyevsai.registry.versions import Version


@dataclass(frozen=True)
class FloorResult:
    """Comparison of a version's metric with its minimum.

    Attributes:
        ok: True if the metric reaches the minimum.
        text: reason; a sentence with the fix if `ok` is False.
        summary: the minimum in a few words, for the registry's status.
        values: minimum, level of chance, standard error and number of images.
    """

    ok: bool
    text: str
    summary: str
    values: Mapping[str, Any]


def check_floor(
    version: Version, policy: Policy, value: float, classes: list[str] | None
) -> FloorResult:
    """Compare a version's metric with the floor of the policy.

    Without a floor, the metric must exceed the level of chance by `STANDARD_ERRORS` standard
    errors. A floor in the policy, even 0, replaces this limit.

    Args:
        version: version to promote.
        policy: promotion policy.
        value: metric of the version.
        classes: true class of each evaluation image; None if the evaluation did not log them.
    """
    chance = chance_of(policy.metric, classes) if classes else None
    values = {"set": policy.floor, "chance": vars(chance) if chance else None}
    if policy.floor is not None:
        text = f"{policy.metric} is {value:.4f}; the policy requires {policy.floor:.4f}"
        is_met = value >= policy.floor
        shown = text if is_met else f"{version.uri}: {text}."
        return FloorResult(is_met, shown, f"{policy.floor:.4f}", values | {"limit": policy.floor})
    if chance is None:
        text = (
            f"No floor is set, and the evaluation of {version.uri} has no predictions to compare "
            f"with chance. Evaluate it again: eyevsai evaluate {version.argument}"
        )
        return FloorResult(False, text, "none set", values)
    summary = f"none set, chance {chance.limit:.4f}"
    if value > chance.limit:
        text = (
            f"no floor set; {policy.metric} is {value:.4f}, above chance plus "
            f"{STANDARD_ERRORS:g} standard errors, {chance.limit:.4f}"
        )
        return FloorResult(True, text, summary, values | {"limit": chance.limit})
    text = _describe_failure(version, policy.metric, value, chance)
    return FloorResult(False, text, summary, values | {"limit": chance.limit})


def _describe_failure(version: Version, metric: str, value: float, chance: Chance) -> str:
    """Return the message for a metric that is not above chance, with the fix."""
    fix = (
        "Evaluate it on more images with --data FOLDER"
        if chance.limit >= 1
        else "Train a better model"
    )
    return (
        f"No floor is set, and {metric} of {version.uri}, {value:.4f}, is not above "
        f"{chance.limit:.4f}: chance, {chance.level:.4f} ({chance.source}), plus "
        f"{STANDARD_ERRORS:g} standard errors of {chance.standard_error:.4f} for {chance.images} "
        f"images. {fix}, or set `floor` in the policy; 0 requires nothing."
    )
