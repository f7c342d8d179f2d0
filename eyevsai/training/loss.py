"""Training loss: cross-entropy with label smoothing and class weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def balanced_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return class weights inverse to the class frequencies, with a mean of 1 over images.

    Args:
        labels: N int64.
        num_classes: number of classes C.

    Returns:
        C float32; infinite for a class that does not occur.
    """
    counts = torch.bincount(labels, minlength=num_classes).to(torch.float32)
    return len(labels) / (num_classes * counts)


def micro_batch_loss(
    logits: Tensor, labels: Tensor, batch: Tensor, weights: Tensor | None, smoothing: float
) -> Tensor:
    """Return the share of a micro-batch in the mean loss of its batch.

    These shares add up to the loss of the whole batch, including class weights. Gradient
    accumulation thus changes the memory usage, not the gradient.

    Args:
        logits: M,C logits of the micro-batch.
        labels: labels of the micro-batch, M int64, or M,C class shares of mixed images.
        batch: labels of the whole batch, N int64 or N,C.
        weights: class weights, C float32; None for equal weights.
        smoothing: share of each label that is spread over all classes.
    """
    total = functional.cross_entropy(
        logits.float(), labels, weight=weights, label_smoothing=smoothing, reduction="sum"
    )
    if weights is None:
        return total / len(batch)
    return total / ((batch @ weights) if batch.is_floating_point() else weights[batch]).sum()
