"""Early stopping: selection of the best epoch, and the criterion that ends training."""

from __future__ import annotations

from eyevsai.training.trainer_state import EpochMetrics


def selection_key(metrics: EpochMetrics) -> tuple[float, float]:
    """Return the selection key of an epoch: valid/accuracy, then the negative valid/loss.

    The epoch with the highest key is the best one; its weights are kept.
    """
    return metrics["valid/accuracy"], -metrics["valid/loss"]


def should_stop_early(patience: int, epochs_without_improvement: int) -> bool:
    """Return True after `patience` epochs without improvement; a `patience` of 0 never stops."""
    return 0 < patience <= epochs_without_improvement
