"""What a network is made of: layers, parameters, and what one image costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

DEPTH = 2  # of the modules that are named: parts, and what they are made of


@dataclass(frozen=True)
class Layer:
    """One part of a model, the shape it gives for one image, and how many numbers it learns."""

    name: str
    type: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class ModelSummary:
    """The parts of a model in the order in which an image passes them.

    `flops` counts the floating-point operations of one image, a multiplication and its addition as
    two; None where that says nothing.
    """

    layers: list[Layer]
    parameters: int
    flops: int | None


@torch.no_grad()
def summarize(network: nn.Module, image_size: int) -> ModelSummary:
    """Sends one image of `image_size` pixels a side through a network and notes what it passes."""
    from torch.utils.flop_counter import FlopCounterMode

    layers: dict[str, Layer] = {}
    training, device = network.training, next(network.parameters()).device
    named = [
        (name, module)
        for name, module in network.named_modules()
        if name and name.count(".") < DEPTH
    ]
    hooks = [module.register_forward_hook(_note(name, layers)) for name, module in named]
    network.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    parameters = sum(weight.numel() for weight in network.parameters())
    passed = [layers[name] for name, _ in named if name in layers]
    return ModelSummary(passed, parameters, int(counter.get_total_flops()))


def _note(name: str, layers: dict[str, Layer]) -> Callable[[nn.Module, object, Tensor], None]:
    def hook(module: nn.Module, _: object, output: Tensor) -> None:
        count = sum(weight.numel() for weight in module.parameters())
        layers[name] = Layer(name, type(module).__name__, tuple(output.shape[1:]), count)

    return hook
