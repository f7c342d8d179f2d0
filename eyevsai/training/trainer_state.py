"""State of a training loop, from which a run resumes bit-identically."""

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
from eyevsai.training.weight_averaging import WeightAverager

EpochMetrics = dict[str, float]
SUMS = ("loss", "correct")


@dataclass
class TrainerState:
    """Progress of a training loop: metrics of completed epochs, and sums of the current one."""

    loss: Tensor  # sum over the images of the current epoch
    correct: Tensor  # correct predictions in the current epoch
    history: list[EpochMetrics] = field(default_factory=list)
    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    micro_batches: int = 1  # per batch and rank; more than configured after running out of memory
    best_epoch: int = 0
    best_key: tuple[float, float] = (-math.inf, -math.inf)
    pace: dict[str, Any] = field(default_factory=dict)  # state of the pace
    is_finished: bool = False  # the last epoch of the history is that of the training

    @property
    def epoch(self) -> int:
        """Current epoch, counted from 1."""
        return len(self.history) + 1

    def end_epoch(self, metrics: EpochMetrics) -> None:
        """Append the metrics of the epoch to the history, and reset the sums."""
        self.history.append(metrics)
        self.loss, self.correct = torch.zeros_like(self.loss), torch.zeros_like(self.correct)
        self.images, self.steps, self.seconds = 0, 0, 0.0


@dataclass(frozen=True)
class Components:
    """Objects that a training loop modifies, besides its progress."""

    strategy: TrainingStrategy
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: ModelEma
    averager: WeightAverager
    best: dict[str, Tensor]  # weights of the best epoch; empty before the end of the first one
    unchanged: Set[str]  # names in the network's state that no epoch has changed yet


def state_dict(
    progress: TrainerState, parts: Components
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors by name, and the plain values, that restore a loop bit-identically.

    Weights that no epoch has changed yet are omitted: a frozen backbone would make up most of a
    checkpoint.
    """
    unchanged = parts.unchanged
    tensors = {
        **_prefixed("network", _without(unchanged, parts.strategy.network.state_dict())),
        **_prefixed("ema", parts.ema.state_dict(unchanged)),
        **_prefixed("averager", parts.averager.state_dict()),
        **_prefixed("best", _without(unchanged, parts.best)),
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
    """Restore the components and the number of threads from a checkpoint.

    Args:
        checkpoint: checkpoint with the values that `state_dict` returned.
        parts: components of the loop, modified in place.
        device: device of the training.

    Returns:
        The progress of the loop.
    """
    state, tensors = checkpoint.state, checkpoint.tensors
    torch.set_num_threads(state["threads"])  # the order of summation depends on it
    parts.strategy.load_state_dict(state["strategy"])
    network = parts.strategy.network
    best = {name: tensor.to(device) for name, tensor in _without_prefix("best", tensors).items()}
    if best:
        parts.best.update(
            {name: tensor.clone() for name, tensor in network.state_dict().items()} | best
        )
    network.load_state_dict(network.state_dict() | _without_prefix("network", tensors))
    parts.ema.load_state_dict(_without_prefix("ema", tensors))
    parts.averager.load_state_dict(_without_prefix("averager", tensors))
    _load_optimizer(parts.optimizer, _without_prefix("optimizer", tensors))
    if parts.scaler.is_enabled():
        parts.scaler.load_state_dict(state["scaler"])
    values = dict(state["trainer"])
    accuracy, negative_loss = values.pop("best_key")
    sums = {name: tensor.to(device) for name, tensor in _without_prefix("trainer", tensors).items()}
    return TrainerState(sums["loss"], sums["correct"], **values, best_key=(accuracy, negative_loss))


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors by `INDEX.NAME`, where INDEX counts its weights."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
    }


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore the tensors of `_optimizer_tensors`, each in the memory format of its weight."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        weight = weights[int(index)]
        value = (
            torch.empty_like(weight, dtype=tensor.dtype).copy_(tensor)
            if tensor.shape == weight.shape
            else tensor
        )
        state.setdefault(int(index), {})[name] = value
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
