"""Learning-rate schedules: warm-up, then constant, cosine, step or plateau."""

from __future__ import annotations

import math
from typing import Any

from eyevsai.training.settings import OptimizationSettings


class LRSchedule:
    """The learning rate as a function of time in epochs and, for plateau, of what was observed."""

    def __init__(self, settings: OptimizationSettings, lr: float, epochs: int) -> None:
        self.settings = settings
        self.lr = lr
        self.epochs = epochs
        self._drops = 0
        self._best_loss = math.inf
        self._epochs_without_improvement = 0

    def lr_at(self, epoch: float) -> float:
        """The learning rate `epoch` epochs after the start."""
        if epoch < self.settings.warmup_epochs:
            return self.lr * epoch / self.settings.warmup_epochs
        return self.lr * max(self._factor_at(epoch), self.settings.min_lr_ratio)

    def _factor_at(self, epoch: float) -> float:
        settings = self.settings
        if settings.schedule == "cosine":  # Loshchilov & Hutter 2017, without restarts
            course = max(self.epochs - settings.warmup_epochs, 1e-9)
            return (1 + math.cos(math.pi * min((epoch - settings.warmup_epochs) / course, 1.0))) / 2
        if settings.schedule == "step":
            return settings.decay_rate ** int(epoch / settings.decay_epochs)
        if settings.schedule == "plateau":
            return settings.decay_rate**self._drops
        return 1.0

    def end_epoch(self, valid_loss: float) -> None:
        """Tells a plateau schedule how an epoch ended."""
        if valid_loss < self._best_loss:
            self._best_loss, self._epochs_without_improvement = valid_loss, 0
            return
        self._epochs_without_improvement += 1
        if self._epochs_without_improvement > self.settings.plateau_patience:
            self._drops, self._epochs_without_improvement = self._drops + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on."""
        return {
            "drops": self._drops,
            "best_loss": self._best_loss,
            "epochs_without_improvement": self._epochs_without_improvement,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._drops, self._best_loss, self._epochs_without_improvement = (
            state["drops"],
            state["best_loss"],
            state["epochs_without_improvement"],
        )
