"""The moving average of a network's weights (Polyak & Juditsky 1992), by torch."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """The network that is evaluated and kept: an average of the one that is trained, or that one itself."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = network
        self.averaged_ = (
            AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True) if decay else None
        )

    def update(self) -> None:
        """To be called after each step."""
        if self.averaged_ is not None:
            self.averaged_.update_parameters(self.network)

    @property
    def best_guess(self) -> nn.Module:
        """What predicts best now."""
        if self.averaged_ is None:
            return self.network
        averaged: nn.Module = self.averaged_.module
        return averaged

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs to go on; nothing where there is no average."""
        return {} if self.averaged_ is None else self.averaged_.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state_dict`."""
        if self.averaged_ is not None:
            self.averaged_.load_state_dict(state)
