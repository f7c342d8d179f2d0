"""Structured pruning: removal of channels and dependent weights (DepGraph, Fang et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from eyevsai.core.errors import UserError
from eyevsai.core.extras import missing_extra

EIGHT = 8  # channel counts stay multiples of it, to fill SIMD registers of CPUs


@runtime_checkable
class ChannelWise(Protocol):
    """Module with as many output as input channels, pruned as a unit.

    torch_pruning cannot trace the dependent channels inside it.
    """

    def channel_layers(self) -> tuple[Sequence[nn.Module], Sequence[nn.Module]]:
        """Return the layers that read the module's channels, and those that write them.

        A normalisation counts as writing.
        """


def check_installed() -> None:
    """Raise UserError unless torch_pruning, an optional extra, is installed."""
    if find_spec("torch_pruning") is None:
        raise missing_extra("--prune", "prune")


def prune(network: nn.Module, share: float, image_size: int) -> None:
    """Remove the `share` of each layer's channels with the smallest weights, in place.

    Channel counts are rounded up to multiples of eight. The outputs of the classifier stay. The
    network is in evaluation mode afterwards.

    Args:
        network: network on the CPU, whose last linear layer is the classifier.
        share: share of the channels to remove, 0 to 1.
        image_size: side of the input images, in pixels.

    Raises:
        UserError: no layer is wide enough to lose eight channels.
    """
    import torch_pruning

    class _Rounding(torch_pruning.pruner.BasePruner):  # type: ignore[misc]
        def _round_to(self, num_pruned: int, channels: int, unit: int) -> int:
            """Return how many channels to remove, so that a multiple of `unit` remains.

            Rounds the remaining channels up; the base class removes all channels of the
            incomplete multiple, or none.
            """
            return max(channels - math.ceil((channels - num_pruned) / unit) * unit, 0)

    before = sum(weight.numel() for weight in network.parameters())
    *_, classifier = (module for module in network.modules() if isinstance(module, nn.Linear))
    leaves = {type(module) for module in network.modules() if isinstance(module, ChannelWise)}
    gradients = [weight.requires_grad for weight in network.parameters()]
    # torch_pruning traces dependent channels through the autograd graph
    network.eval().requires_grad_(True)
    pruner = _Rounding(
        network,
        torch.zeros(1, 3, image_size, image_size),
        importance=torch_pruning.importance.GroupMagnitudeImportance(),
        pruning_ratio=share,
        ignored_layers=[classifier],
        round_to=EIGHT,
        root_module_types=[nn.Conv2d, nn.Linear],
        customized_pruners={leaf: _channel_wise_pruner() for leaf in leaves},
    )
    pruner.step()
    for weight, requires_grad in zip(network.parameters(), gradients, strict=True):
        weight.requires_grad_(requires_grad)
    if sum(weight.numel() for weight in network.parameters()) == before:
        raise UserError(
            f"--prune {share:g} removes no channels: no layer is wide enough to lose {EIGHT}. "
            "Use a larger share."
        )


def fit_shapes(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Resize the layers of an unpruned network to the shapes of a pruned state dict, in place.

    The values of the weights are undefined until the state dict is loaded.

    Raises:
        KeyError: a tensor of the network is missing in `tensors`.
        ValueError: a tensor has another number of dimensions than its layer requires.
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
        for members in (module._parameters, module._buffers):
            for short, tensor in members.items():
                if tensor is not None:
                    tensor.data = tensor.new_empty(
                        tensors[f"{name}.{short}" if name else short].shape
                    )


def _channel_wise_pruner() -> object:
    """Return the object with which torch_pruning prunes `ChannelWise` modules."""
    from torch_pruning import BasePruningFunc
    from torch_pruning.pruner import function

    class Pruner(BasePruningFunc):  # type: ignore[misc]
        def prune_out_channels(self, layer: nn.Module, idxs: Sequence[int]) -> nn.Module:
            """Remove the channels `idxs` from the inputs and outputs of a module; return it."""
            readers, writers = cast(ChannelWise, layer).channel_layers()
            for each in readers:
                function.prune_conv_in_channels(each, idxs)
            for each in writers:
                prune_outputs = (
                    function.prune_conv_out_channels
                    if isinstance(each, nn.Conv2d)
                    else function.prune_groupnorm_out_channels
                )
                prune_outputs(each, idxs)
            return layer

        prune_in_channels = prune_out_channels

        def get_out_channels(self, layer: nn.Module) -> int:
            return int(cast(ChannelWise, layer).channel_layers()[0][0].in_channels)  # type: ignore[arg-type]

        get_in_channels = get_out_channels

    return Pruner()
