"""What is said of a training's epochs, as each ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from eyevsai.core.progress import EtaEstimator
from eyevsai.evaluation.metric_names import EPOCH_ACCURACY
from eyevsai.training.early_stopping import selection_key
from eyevsai.training.trainer_state import EpochMetrics

log = logging.getLogger("eyevsai")


class EpochLog:
    """Says how good an epoch was, which is the best so far, how fast it went and how long the
    others may take.
    """

    def __init__(self, num_epochs: int) -> None:
        self.num_epochs = num_epochs
        self._eta = EtaEstimator()

    def log(self, rows: Sequence[EpochMetrics]) -> None:
        """Says it of the last of all epochs so far."""
        self._eta.step()
        epoch, row = len(rows), rows[-1]
        best = max(range(epoch), key=lambda place: selection_key(rows[place]))
        which = (
            "the best so far"
            if best == epoch - 1
            else f"best {rows[best]['valid/accuracy']:.4f} in epoch {best + 1}"
        )
        speed = f", {row['images_per_s']:,.0f} images/s" if "images_per_s" in row else ""
        log.info(
            "epoch %d of %d  valid accuracy %.4f (%s), loss %.4f; train accuracy %.4f, loss "
            "%.4f%s%s",
            epoch,
            self.num_epochs,
            row[EPOCH_ACCURACY],
            which,
            row["valid/loss"],
            row["train/accuracy"],
            row["train/loss"],
            speed,
            self._eta.remaining(self.num_epochs - epoch),
        )
        log.debug(
            "epoch %d: %s", epoch, "  ".join(f"{name} {value:.4g}" for name, value in row.items())
        )
