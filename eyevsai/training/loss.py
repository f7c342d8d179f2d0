"""The training loss: cross-entropy with label smoothing and class weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Weight of each class, inverse to its frequency in `labels` and 1 on average over images."""
    counts = torch.bincount(labels, minlength=num_classes).to(torch.float32)
    return len(labels) / (num_classes * counts)


def micro_batch_loss(
    logits: Tensor, labels: Tensor, batch: Tensor, weights: Tensor | None, smoothing: float
) -> Tensor:
    """What a part of a batch adds to the batch's mean loss, whose labels are `batch`: N int64, or
    N,C shares.

    The parts' losses add up to the loss of the whole, class weights included, so that computing
    a batch in parts changes the memory it takes and not the gradient.
    """
    total = functional.cross_entropy(
        logits.float(), labels, weight=weights, label_smoothing=smoothing, reduction="sum"
    )
    if weights is None:
        return total / len(batch)
    return total / ((batch @ weights) if batch.is_floating_point() else weights[batch]).sum()
