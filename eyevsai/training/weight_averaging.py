"""WiSE-FT: averages of the weights before and after fine-tuning (Wortsman et al. 2022).

Robust fine-tuning of zero-shot models, https://arxiv.org/abs/2109.01903. There, the weights before
fine-tuning are those of a zero-shot classifier; here, those of a pretrained backbone with a head
that was trained on its features. The averages cost nothing in predictions.
"""

from __future__ import annotations

from collections.abc import Iterator, Set

import torch
from torch import Tensor, nn

SHARES = (0.4, 0.6, 0.8)  # of the fine-tuned weights, in the averages that are evaluated


class WeightAverager:
    """Weights of a network before fine-tuning, and their averages with those after it."""

    def __init__(self, network: nn.Module, frozen: Set[str]) -> None:
        """Copy the frozen part of the network.

        Args:
            network: network before the first step, with its pretrained weights.
            frozen: names in its state that are not trained before fine-tuning; an empty set
                disables averages.
        """
        self._frozen = frozen
        self._start = _copy({name: network.state_dict()[name] for name in frozen})
        self._head: dict[str, Tensor] = {}

    def begin_fine_tuning(self, network: nn.Module) -> None:
        """Copy the part of the network that was trained before fine-tuning. Call at its start."""
        if self._frozen and not self._head:
            state = network.state_dict()
            self._head = _copy({name: state[name] for name in state.keys() - self._frozen})

    @property
    def is_ready(self) -> bool:
        return bool(self._head)

    def averages(self, network: nn.Module) -> Iterator[float]:
        """Set the network to each average in turn, and yield its share of the fine-tuned weights.

        Integer buffers, such as counters, keep their values. The network keeps the last average.

        Args:
            network: fine-tuned network.
        """
        before, after = self._start | self._head, _copy(network.state_dict())
        for share in SHARES:
            network.load_state_dict(
                {
                    name: torch.lerp(before[name].to(value.device), value, share)
                    if value.is_floating_point()
                    else value
                    for name, value in after.items()
                }
            )
            yield share

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights that cannot be read from the pretrained network again."""
        return self._head

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self._head = dict(state)


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}
