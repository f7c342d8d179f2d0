"""LR schedules: linear warm-up, then constant, cosine, step or plateau."""

from __future__ import annotations

import math
from typing import Any

from eyevsai.training.settings import OptimizationSettings

MAX_WARMUP = 5  # a warm-up has at most one of so many parts of a schedule


def limit_warmup(warmup_epochs: float, epochs: int) -> float:
    """Return the length of the warm-up in a schedule of `epochs`, in epochs: at most a fifth."""
    return min(warmup_epochs, epochs / MAX_WARMUP)


def limit_decay(decay_epochs: int, epochs: int) -> int:
    """Return the epochs between drops in a schedule of `epochs`.

    A period without a drop before the end is replaced by a third of the schedule.
    """
    return decay_epochs if decay_epochs < epochs else max(1, math.ceil(epochs / 3))


class LRSchedule:
    """LR schedule: a function of the time in epochs and, for plateau, of the validation losses."""

    def __init__(self, settings: OptimizationSettings, lr: float, epochs: int) -> None:
        """Start a schedule.

        Args:
            settings: type and parameters of the schedule. Its periods are limited to parts of
                `epochs`, by `limit_warmup` and `limit_decay`.
            lr: peak learning rate.
            epochs: length of the schedule, warm-up included.
        """
        self.settings = settings
        self.lr = lr
        self.epochs = epochs
        self.warmup_epochs = limit_warmup(settings.warmup_epochs, epochs)
        self.decay_epochs = limit_decay(settings.decay_epochs, epochs)
        self._drops = 0
        self._best_loss = math.inf
        self._epochs_without_improvement = 0

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate `epoch` epochs after the start."""
        if epoch < self.warmup_epochs:
            return self.lr * epoch / self.warmup_epochs
        return self.lr * max(self._factor_at(epoch), self.settings.min_lr_ratio)

    def _factor_at(self, epoch: float) -> float:
        settings = self.settings
        if settings.schedule == "cosine":  # Loshchilov & Hutter 2017, without restarts
            length = max(self.epochs - self.warmup_epochs, 1e-9)
            return (1 + math.cos(math.pi * min((epoch - self.warmup_epochs) / length, 1.0))) / 2
        if settings.schedule == "step":
            return settings.decay_rate ** int(epoch / self.decay_epochs)
        if settings.schedule == "plateau":
            return settings.decay_rate**self._drops
        return 1.0

    def end_epoch(self, valid_loss: float) -> None:
        """Record the validation loss of an epoch; a plateau schedule may then drop the LR."""
        if valid_loss < self._best_loss:
            self._best_loss, self._epochs_without_improvement = valid_loss, 0
            return
        self._epochs_without_improvement += 1
        if self._epochs_without_improvement > self.settings.plateau_patience:
            self._drops, self._epochs_without_improvement = self._drops + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state that `load_state_dict` restores."""
        return {
            "drops": self._drops,
            "best_loss": self._best_loss,
            "epochs_without_improvement": self._epochs_without_improvement,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self._drops, self._best_loss, self._epochs_without_improvement = (
            state["drops"],
            state["best_loss"],
            state["epochs_without_improvement"],
        )
