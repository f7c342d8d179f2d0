"""The moving average of a network's weights (Polyak & Juditsky 1992), blended by torch."""

from __future__ import annotations

import copy
from collections.abc import Set

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ModelEma:
    """The network that is evaluated and kept: an average of the one that is trained, or that one
    itself.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network
        self.decay = decay
        self._averaged = copy.deepcopy(network).requires_grad_(False) if decay else None
        self._updates = torch.zeros((), dtype=torch.int64)
        self._unchanged: Set[str] | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def update(self, unchanged: Set[str]) -> None:
        """To be called after each step, with the names of what no step so far has changed.

        The first time, the average is what the network is. Counters are copied, not averaged.
        """
        if self._averaged is None:
            return
        # once an epoch: tensors stay where they are, only their values change
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
            blend = get_ema_multi_avg_fn(self._decay())
            blend([mean for mean, _ in blended], [value for _, value in blended], self._updates)
        for mean, value in self._pairs:
            if not (self._updates and mean.is_floating_point()):
                mean.copy_(value)
        self._updates += 1

    def _decay(self) -> float:
        """Lower at first, as TensorFlow's is: an average of a few steps must not be that of
        none.
        """
        updates = self._updates.item()
        return min(self.decay, (1 + updates) / (10 + updates))

    @property
    def eval_model(self) -> nn.Module:
        """What predicts best now."""
        return self.network if self._averaged is None else self._averaged

    def state_dict(self, unchanged: Set[str]) -> dict[str, Tensor]:
        """What a resumed run needs to go on, without what is untouched; nothing where there is no
        average.
        """
        if self._averaged is None:
            return {}
        kept = {
            f"weights.{name}": mean
            for name, mean in self._averaged.state_dict().items()
            if name not in unchanged
        }
        return {**kept, "updates": self._updates}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        if self._averaged is not None:
            weights = {
                name.removeprefix("weights."): t
                for name, t in state.items()
                if name.startswith("weights.")
            }
            self._averaged.load_state_dict(self._averaged.state_dict() | weights)
            self._updates = state["updates"].clone()
