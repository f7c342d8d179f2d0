"""When memory is too small for a step."""

from __future__ import annotations

import gc

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python raised `error` because memory could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    words = (
        "can't allocate memory",
        "could not create a memory",
        "could not create a primitive",
        "out of memory",
    )
    return any(word in text for word in words)  # oneDNN says the second and third


def release_memory(optimizer: torch.optim.Optimizer) -> None:
    """Gives up gradients and what torch keeps in reserve."""
    optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
