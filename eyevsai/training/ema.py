"""Exponential moving average (EMA) of a network's weights (Polyak & Juditsky 1992)."""

from __future__ import annotations

import copy
from collections.abc import Set

import torch
from torch import Tensor, nn


class ModelEma:
    """EMA of a network's weights; with a decay of 0, the network itself."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        self._averaged = copy.deepcopy(network).requires_grad_(False) if decay else None
        self._updates = torch.zeros((), dtype=torch.int64)
        self._unchanged: Set[str] | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, unchanged: Set[str]) -> None:
        """Update the average. Call after each step.

        The first update copies the network. Integer buffers, such as counters, are always copied.

        Args:
            unchanged: names in the network's state that no step has changed so far.
        """
        if self._averaged is None:
            return
        # Pairs are rebuilt only when an epoch passes another set: steps change tensors in place.
        if unchanged is not self._unchanged:
            now = self.network.state_dict()
            self._pairs = [
                (mean, now[name])
                for name, mean in self._averaged.state_dict().items()
                if name not in unchanged
            ]
            self._unchanged = unchanged
        blended = [pair for pair in self._pairs if self._updates and pair[0].is_floating_point()]
        if blended:
            # here: the import loads torch's compiler
            from torch.optim.swa_utils import get_ema_multi_avg_fn

            blend = get_ema_multi_avg_fn(self._decay())
            blend([mean for mean, _ in blended], [value for _, value in blended], self._updates)
        for mean, value in self._pairs:
            if not (self._updates and mean.is_floating_point()):
                mean.copy_(value)
        self._updates += 1

    def _decay(self) -> float:
        """Return the decay, warmed up as TensorFlow's EMA does: min(decay, (1 + n) / (10 + n)).

        Otherwise the initial weights would dominate the average of the first steps.
        """
        updates = self._updates.item()
        return min(self.decay, (1 + updates) / (10 + updates))

    @property
    def eval_model(self) -> nn.Module:
        """Network to evaluate and save: the average, or the trained network without one."""
        return self.network if self._averaged is None else self._averaged

    def state_dict(self, unchanged: Set[str]) -> dict[str, Tensor]:
        """Return the average without its `unchanged` tensors; empty without an average."""
        if self._averaged is None:
            return {}
        weights = {
            f"weights.{name}": mean
            for name, mean in self._averaged.state_dict().items()
            if name not in unchanged
        }
        return {**weights, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned; tensors that it left out stay as they are."""
        if self._averaged is not None:
            weights = {
                name.removeprefix("weights."): t
                for name, t in state.items()
                if name.startswith("weights.")
            }
            self._averaged.load_state_dict(self._averaged.state_dict() | weights)
            self._updates = state["updates"].clone()
