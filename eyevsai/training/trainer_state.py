"""The state of a training loop: all that it takes to go on as if nothing had happened."""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eyevsai.training.checkpoint import Checkpoint
from eyevsai.training.ema import ModelEma
from eyevsai.training.strategy import TrainingStrategy

EpochMetrics = dict[str, float]
SUMS = ("loss", "correct")


@dataclass
class TrainerState:
    """How far a loop is: the rows of its whole epochs, and sums over the images of the one it is
    in.
    """

    loss: Tensor
    correct: Tensor
    history: list[EpochMetrics] = field(default_factory=list)
    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    micro_batches: int = 1  # that a batch is computed in, more than was set where memory was short
    best_epoch: int = 0
    best_key: tuple[float, float] = (-math.inf, -math.inf)

    @property
    def epoch(self) -> int:
        """The epoch that is under way, counted from 1."""
        return len(self.history) + 1

    def end_epoch(self, row: EpochMetrics) -> None:
        """Keeps the row of the epoch and starts to count anew."""
        self.history.append(row)
        self.loss, self.correct = torch.zeros_like(self.loss), torch.zeros_like(self.correct)
        self.images, self.steps, self.seconds = 0, 0, 0.0


@dataclass(frozen=True)
class Components:
    """What a loop moves, besides its progress."""

    strategy: TrainingStrategy
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEma
    best: dict[str, Tensor]  # the weights of the best epoch, empty before the first has ended


def state_dict(
    progress: TrainerState, parts: Components
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name and plain values, from which `load_state_dict` restores the loop to the bit.

    Weights that nothing has touched yet are left out: a frozen base makes up nearly all of a
    checkpoint.
    """
    untouched = parts.strategy.unchanged(progress.epoch)
    tensors = {
        **_prefixed("network", _without(untouched, parts.strategy.network.state_dict())),
        **_prefixed("ema", parts.ema.state_dict(untouched)),
        **_prefixed("best", _without(untouched, parts.best)),
        **_prefixed("optimizer", _optimizer_tensors(parts.optimizer)),
        **_prefixed("trainer", {name: getattr(progress, name) for name in SUMS}),
    }
    state = {
        "trainer": {name: value for name, value in vars(progress).items() if name not in SUMS},
        "strategy": parts.strategy.state_dict(),
        "scaler": parts.scaler.state_dict(),
        "threads": torch.get_num_threads(),
    }
    return tensors, state


def load_state_dict(
    checkpoint: Checkpoint, parts: Components, device: torch.device
) -> TrainerState:
    """Gives `parts` the state that `state_dict` wrote down, and the number of threads; returns the
    progress.
    """
    state, tensors = checkpoint.state, checkpoint.tensors
    torch.set_num_threads(state["threads"])  # another number adds up in another order
    parts.strategy.load_state_dict(state["strategy"])
    network = parts.strategy.network
    best = {name: tensor.to(device) for name, tensor in _without_prefix("best", tensors).items()}
    if best:
        parts.best.update(
            {name: tensor.clone() for name, tensor in network.state_dict().items()} | best
        )
    network.load_state_dict(network.state_dict() | _without_prefix("network", tensors))
    parts.ema.load_state_dict(_without_prefix("ema", tensors))
    _load_optimizer(parts.optimizer, _without_prefix("optimizer", tensors))
    if parts.scaler.is_enabled():
        parts.scaler.load_state_dict(state["scaler"])
    values = dict(state["trainer"])
    accuracy, negative_loss = values.pop("best_key")
    sums = {name: tensor.to(device) for name, tensor in _without_prefix("trainer", tensors).items()}
    return TrainerState(sums["loss"], sums["correct"], **values, best_key=(accuracy, negative_loss))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors as `INDEX.NAME`, where INDEX counts its weights."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse of `_optimizer_tensors`, each tensor laid out in memory as its weight is."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        weight = weights[int(index)]
        alike = (
            torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)
            if tensor.shape == weight.shape
            else tensor
        )
        state.setdefault(int(index), {})[name] = alike
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _without(names: Set[str], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


def _without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(f"{prefix}."): t
        for name, t in tensors.items()
        if name.startswith(f"{prefix}.")
    }
