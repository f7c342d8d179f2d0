"""Muon: momentum whose matrix is orthogonalised, for convolutions; AdamW for other weights.

Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks. The update is scaled to
the root mean square of AdamW's, so that both take the same learning rate and weight decay (Liu et
al. 2025, Muon is Scalable for LLM Training). `torch.optim.Muon` takes matrices only and computes in
bfloat16, which is slow on CPUs without it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic Newton-Schulz iteration
NUM_ITERATIONS = 5
GRAM_RATIO = 1.5  # columns / rows above which products of Gram matrices cost less
ADAMW_RMS = 0.2  # typical root mean square of AdamW's updates, relative to the learning rate
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8  # of AdamW, as in PyTorch


class Muon(torch.optim.Optimizer):
    """Optimizer of parameter groups with the keys `lr`, `weight_decay` and `orthogonalize`.

    Groups with `orthogonalize` have weights of two or more dimensions, and are updated by Muon with
    Nesterov momentum; the others are updated by AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float) -> None:
        """Configure the optimizer.

        Args:
            groups: parameter groups.
            lr: initial learning rate.
            momentum: momentum of Muon, from 0 to below 1.
        """
        super().__init__(
            groups, {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonalize": False}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the weights that have a gradient; return the loss of `closure`, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if group["orthogonalize"]:
                for weight in weights:
                    self._update_matrix(weight, group)
            elif weights:
                self._update_by_adamw(weights, group)
        return loss

    def _update_matrix(self, weight: Tensor, group: dict[str, Any]) -> None:
        gradient, state, momentum = weight.grad, self.state[weight], group["momentum"]
        assert gradient is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"]
        buffer.mul_(momentum).add_(gradient)
        update = gradient.add(buffer, alpha=momentum)
        matrix = orthogonalize(update.flatten(1)).view_as(update)
        scale = ADAMW_RMS * math.sqrt(max(weight.shape[0], weight[0].numel()))
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(matrix, alpha=-group["lr"] * scale)

    def _update_by_adamw(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros(()),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        states = [self.state[weight] for weight in weights]
        adamw(
            weights,
            [weight.grad for weight in weights if weight.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=BETA1,
            beta2=BETA2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=EPSILON,
            maximize=False,
        )


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return a nearly orthogonal matrix with the singular vectors of `matrix`, R,C float.

    Five Newton-Schulz iterations move all singular values to between about 0.7 and 1.2. For a
    matrix that is much longer than wide, the iterations multiply the small square matrix of the
    products of its rows, and their product is applied at the end
    (docs/decisions/053-short-trainings.md).
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.float().T if is_tall else matrix.float()
    wide = wide / wide.norm().clamp_min(1e-7)
    is_long = wide.shape[1] > GRAM_RATIO * wide.shape[0]
    # with products in bfloat16 or TF32, Gram matrices would be too inexact
    is_exact = wide.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    result = _iterate_products(wide) if is_long and is_exact else _iterate(wide)
    return result.T if is_tall else result


def _iterate(matrix: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = matrix @ matrix.T
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        matrix = torch.addmm(matrix, factor, matrix, beta=a)
    return matrix


def _iterate_products(matrix: Tensor) -> Tensor:
    """Return the same as `_iterate`, up to rounding, by products of R,R instead of R,C matrices.

    Each iteration multiplies the matrix by a polynomial of its Gram matrix; polynomials of one
    matrix commute.
    """
    a, b, c = COEFFICIENTS
    gram = matrix @ matrix.T
    factors: Tensor | None = None
    for iteration in range(NUM_ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal().add_(a)
        factors = factor if factors is None else factors @ factor
        if iteration + 1 < NUM_ITERATIONS:
            gram = factor @ gram @ factor
    assert factors is not None
    return factors @ matrix
