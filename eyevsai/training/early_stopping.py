"""Early stopping: selection of the best epoch, and the criterion that ends training."""

from __future__ import annotations

from collections.abc import Callable

from eyevsai.training.trainer_state import EpochMetrics


def selection_key(metrics: EpochMetrics) -> tuple[float, float]:
    """Return the selection key of an epoch: valid/accuracy, then the negative valid/loss.

    The epoch with the highest key is the best one; its weights are kept.
    """
    return metrics["valid/accuracy"], -metrics["valid/loss"]


def should_stop_early(
    patience: int, epoch: int, best_epoch: int, is_counted: Callable[[int], bool]
) -> bool:
    """Return True if the last `patience` epochs count and are all later than the best one.

    Args:
        patience: number of epochs; 0 never stops.
        epoch: last trained epoch.
        best_epoch: epoch with the highest `selection_key`.
        is_counted: whether an epoch counts. After the first one that does, all do.
    """
    first = epoch - patience + 1
    return patience > 0 and first > best_epoch and is_counted(first)
