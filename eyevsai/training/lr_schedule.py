"""LR schedules: linear warm-up, then constant, cosine, step or plateau."""

from __future__ import annotations

import math
from typing import Any

from eyevsai.training.settings import OptimizationSettings


class LRSchedule:
    """LR schedule: a function of the time in epochs and, for plateau, of the validation losses."""

    def __init__(self, settings: OptimizationSettings, lr: float, epochs: int) -> None:
        """Start a schedule.

        Args:
            settings: type and parameters of the schedule.
            lr: peak learning rate.
            epochs: length of the schedule, warm-up included.
        """
        self.settings = settings
        self.lr = lr
        self.epochs = epochs
        self._drops = 0
        self._best_loss = math.inf
        self._epochs_without_improvement = 0

    def lr_at(self, epoch: float) -> float:
        """Return the learning rate `epoch` epochs after the start."""
        if epoch < self.settings.warmup_epochs:
            return self.lr * epoch / self.settings.warmup_epochs
        return self.lr * max(self._factor_at(epoch), self.settings.min_lr_ratio)

    def _factor_at(self, epoch: float) -> float:
        settings = self.settings
        if settings.schedule == "cosine":  # Loshchilov & Hutter 2017, without restarts
            length = max(self.epochs - settings.warmup_epochs, 1e-9)
            return (1 + math.cos(math.pi * min((epoch - settings.warmup_epochs) / length, 1.0))) / 2
        if settings.schedule == "step":
            return settings.decay_rate ** int(epoch / settings.decay_epochs)
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
