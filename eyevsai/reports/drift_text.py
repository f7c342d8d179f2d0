"""Results of a drift check in words and numbers, for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MAX_CLASSES = 5  # classes whose share changed most


def format_log_p(log_p: float) -> str:
    """Return a p-value from its natural logarithm: `0.031`, or `2e-340`, too small for a float."""
    if log_p > math.log(0.001):
        return f"{math.exp(log_p):.2g}"
    exponent = math.floor(log_p / math.log(10))
    digit = round(math.exp(log_p - exponent * math.log(10)))
    return f"1e{exponent + 1}" if digit == 10 else f"{digit}e{exponent}"


def format_estimate(estimate: Mapping[str, Any]) -> str:
    """Return an estimated accuracy with its spread: `0.912 ± 0.020`."""
    return f"{estimate['accuracy']:.3f} ± {estimate['spread']:.3f}"


def describe_strongest(window: Mapping[str, Any]) -> str:
    """Return the most significant difference: `confidence 0.91, in the reference 0.95`."""
    each = window["strongest"]
    return (
        f"{each['name']} {each['window_mean']:.3f}, in the reference {each['reference_mean']:.3f}"
    )


def list_changed_classes(
    window: Mapping[str, Any], reference: Mapping[str, float]
) -> list[tuple[str, float, float, float]]:
    """Return the classes whose estimated share differs most from that of the reference.

    Those within two standard errors are left out.

    Args:
        window: JSON values of a window.
        reference: share of each class in the reference.

    Returns:
        Class, share in the reference, estimated share in the window, and its standard error.
    """
    shift = window["label_shift"]
    rows = [
        (name, reference[name], share, shift["errors"][name])
        for name, share in shift["shares"].items()
        if share is not None and abs(share - reference[name]) > 2 * shift["errors"][name]
    ]
    rows.sort(key=lambda row: -abs(row[2] - row[1]))
    return rows[:MAX_CLASSES]


def explain_window(window: Mapping[str, Any], reference: Mapping[str, float]) -> list[str]:
    """Return sentences that explain a window: image statistics, class shares, uncertainty.

    Args:
        window: JSON values of a window.
        reference: share of each class in the reference.
    """
    sentences = []
    if window["explanation"]:
        sentences.append(f"Images: {', '.join(window['explanation'])}.")
    if changed := list_changed_classes(window, reference):
        shares = (
            f"{name} {share:.0%} (± {error:.0%}) instead of {before:.0%}"
            for name, before, share, error in changed
        )
        sentences.append(f"Classes, if only their shares changed: {', '.join(shares)}.")
    if window["accuracy"]["is_uncertain"]:
        sentences.append(
            "The accuracy is uncertain: the two estimates differ by more than 0.05. Label some "
            "images."
        )
    return sentences
