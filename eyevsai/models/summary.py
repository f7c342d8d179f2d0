"""Model summary: layers, parameter counts, and floating-point operations per image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

DEPTH = 2  # levels of the listed modules: children of the network, and their children


@dataclass(frozen=True)
class Layer:
    """Layer of a model: output shape for one image, and number of learned values."""

    name: str
    type: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class ModelSummary:
    """Layers and totals of a model.

    `layers` are in the order of definition, parents before children. `flops` is the number of
    floating-point operations for one image, a multiply-add counted as two; None for models that
    are not networks.
    """

    layers: list[Layer]
    parameters: int
    flops: int | None


@torch.no_grad()
def summarize(network: nn.Module, image_size: int) -> ModelSummary:
    """Return the summary of a network, measured with one forward pass.

    The pass is in evaluation mode, with one blank image of `image_size` x `image_size` pixels.
    Layers deeper than `DEPTH` levels, or not used in the pass, are left out.
    """
    from torch.utils.flop_counter import FlopCounterMode

    layers: dict[str, Layer] = {}
    training, device = network.training, next(network.parameters()).device
    modules = [
        (name, module)
        for name, module in network.named_modules()
        if name and name.count(".") < DEPTH
    ]
    hooks = [module.register_forward_hook(_recorder(name, layers)) for name, module in modules]
    network.eval()
    try:
        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, 3, image_size, image_size, device=device))
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
    parameters = sum(weight.numel() for weight in network.parameters())
    used_layers = [layers[name] for name, _ in modules if name in layers]
    return ModelSummary(used_layers, parameters, int(counter.get_total_flops()))


def _recorder(name: str, layers: dict[str, Layer]) -> Callable[[nn.Module, object, Tensor], None]:
    """Return a forward hook that stores a module's type, shape and size as `layers[name]`."""

    def hook(module: nn.Module, _: object, output: Tensor) -> None:
        count = sum(weight.numel() for weight in module.parameters())
        layers[name] = Layer(name, type(module).__name__, tuple(output.shape[1:]), count)

    return hook
