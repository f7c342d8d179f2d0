"""Structured pruning: whole channels go, with all that depends on them (Fang et al. 2023,
DepGraph).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from eyevsai.core.errors import UserError
from eyevsai.core.extras import missing_extra

EIGHT = 8  # channels stay a multiple of it, which a CPU's instructions take at once


@runtime_checkable
class ChannelWise(Protocol):
    """A module that gives as many channels as it is given, and whose inside torch's graph does not
    show.
    """

    def channel_layers(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        """The layers that take its channels, and those that give them; a normalisation is among the
        latter.
        """


def check_installed() -> None:
    """Raises UserError when what finds dependent channels is not installed."""
    if find_spec("torch_pruning") is None:
        raise missing_extra("--prune", "prune")


def prune(network: nn.Module, share: float, image_size: int) -> None:
    """Takes the least `share` of each layer's channels away, by the size of their weights; the
    classes stay.

    Raises:
        UserError: every layer is too small to lose eight channels.
    """
    import torch_pruning

    class _Rounding(torch_pruning.pruner.BasePruner):  # type: ignore[misc]
        def _round_to(self, lost: int, channels: int, unit: int) -> int:
            """Keeps more than asked, not fewer: its own way takes all that is below a multiple, or
            nothing at all.
            """
            return max(channels - math.ceil((channels - lost) / unit) * unit, 0)

    before = sum(weight.numel() for weight in network.parameters())
    *_, classifier = (module for module in network.modules() if isinstance(module, nn.Linear))
    leaves = {type(module) for module in network.modules() if isinstance(module, ChannelWise)}
    gradients = [weight.requires_grad for weight in network.parameters()]
    # the graph of dependent channels is read off the gradient's
    network.eval().requires_grad_(True)
    pruner = _Rounding(
        network,
        torch.zeros(1, 3, image_size, image_size),
        importance=torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=share,
        ignored_layers=[classifier],
        round_to=EIGHT,
        root_module_types=[nn.Conv2d, nn.Linear],
        customized_pruners={leaf: _pruner_of_leaves() for leaf in leaves},
    )
    pruner.step()
    for weight, wanted in zip(network.parameters(), gradients, strict=True):
        weight.requires_grad_(wanted)
    if sum(weight.numel() for weight in network.parameters()) == before:
        raise UserError(
            f"Nothing can be taken away with --prune {share:g}: no layer has {EIGHT} channels "
            "to lose."
        )


def fit_shapes(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Makes a network's layers as large as those that `tensors` were taken from, which lost
    channels.

    Raises:
        KeyError: a layer has no tensors.
    """
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            outs, ins = tensors[f"{name}.weight"].shape[:2]
            module.groups = outs if module.groups > 1 and ins == 1 else module.groups
            module.out_channels, module.in_channels = outs, ins * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = tensors[f"{name}.weight"].shape
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            (module.num_features,) = tensors[f"{name}.weight"].shape
        elif isinstance(module, nn.GroupNorm):
            (module.num_channels,) = tensors[f"{name}.weight"].shape
        for kind in (module._parameters, module._buffers):
            for short, tensor in kind.items():
                if tensor is not None:
                    tensor.data = tensor.new_empty(
                        tensors[f"{name}.{short}" if name else short].shape
                    )


def _pruner_of_leaves() -> object:
    """torch_pruning's way of taking channels away from a `ChannelWise` module."""
    from torch_pruning import BasePruningFunc
    from torch_pruning.pruner import function

    class Pruner(BasePruningFunc):  # type: ignore[misc]
        def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
            """What it gives has the channels of what it takes: they go together."""
            taking, giving = cast(ChannelWise, layer).channel_layers()
            for each in taking:
                function.prune_conv_in_channels(each, idxs)
            for each in giving:
                take = (
                    function.prune_conv_out_channels
                    if isinstance(each, nn.Conv2d)
                    else function.prune_groupnorm_out_channels
                )
                take(each, idxs)
            return layer

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: nn.Module) -> int:
            return int(cast(ChannelWise, layer).channel_layers()[0][0].in_channels)  # type: ignore[arg-type]

        get_in_channels = get_out_channels

    return Pruner()
