"""Early stopping: which epoch is the best, and when training stops for want of a better one."""

from __future__ import annotations

from eyevsai.training.trainer_state import EpochMetrics


def selection_key(metrics: EpochMetrics) -> tuple[float, float]:
    """Return the key that is highest in the best epoch: valid/accuracy, then the lower valid/loss.

    The weights of that epoch are kept.
    """
    return metrics["valid/accuracy"], -metrics["valid/loss"]


def should_stop_early(patience: int, epochs_without_improvement: int) -> bool:
    """Return True if training stops: no better epoch within `patience` epochs; 0 never stops it."""
    return 0 < patience <= epochs_without_improvement
