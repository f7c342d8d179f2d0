"""Log lines about the epochs of a training run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from eyevsai.core.progress import EtaEstimator, format_seconds
from eyevsai.evaluation.metric_names import EPOCH_ACCURACY
from eyevsai.training.early_stopping import selection_key
from eyevsai.training.pace import TimeBudget
from eyevsai.training.trainer_state import EpochMetrics

log = logging.getLogger("eyevsai")


class EpochLog:
    """Logger of epoch metrics, the best epoch so far, throughput and the estimated time left."""

    def __init__(self, num_epochs: int, budget: TimeBudget | None = None) -> None:
        """Start the log.

        Args:
            num_epochs: epochs of the training; not used with a time budget, whose epochs are not
                known.
            budget: time budget of the run.
        """
        self.num_epochs, self.budget = num_epochs, budget
        self._eta = EtaEstimator()

    def log(self, history: Sequence[EpochMetrics]) -> None:
        """Log the last epoch of `history`, the metrics of all epochs so far.

        Writes one INFO line with accuracies and losses, and one DEBUG line with all metrics. Call
        once after each epoch: the time left is estimated from the intervals between calls.
        """
        self._eta.step()
        epoch, metrics = len(history), history[-1]
        best = max(range(epoch), key=lambda index: selection_key(history[index]))
        best_so_far = (
            "the best so far"
            if best == epoch - 1
            else f"best {history[best]['valid/accuracy']:.4f} in epoch {best + 1}"
        )
        speed = f", {metrics['images_per_s']:,.0f} images/s" if "images_per_s" in metrics else ""
        log.info(
            "epoch %d%s  valid accuracy %.4f (%s), loss %.4f; train accuracy %.4f, loss %.4f%s%s",
            epoch,
            "" if self.budget else f" of {self.num_epochs}",
            metrics[EPOCH_ACCURACY],
            best_so_far,
            metrics["valid/loss"],
            metrics["train/accuracy"],
            metrics["train/loss"],
            speed,
            self._describe_remaining(epoch),
        )
        log.debug(
            "epoch %d: %s",
            epoch,
            "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()),
        )

    def _describe_remaining(self, epoch: int) -> str:
        if self.budget is None:
            return self._eta.remaining(self.num_epochs - epoch)
        seconds = max(0.0, self.budget.total_s - self.budget.elapsed())
        return f", {format_seconds(seconds)} of the time budget left"
