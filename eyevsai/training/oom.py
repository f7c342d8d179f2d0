"""Detection of out-of-memory errors, and release of memory after one."""

from __future__ import annotations

import gc

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if torch or Python raised `error` because an allocation failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    fragments = (
        "can't allocate memory",
        "could not create a memory",  # oneDNN
        "could not create a primitive",  # oneDNN
        "out of memory",
    )
    return any(fragment in text for fragment in fragments)


def release_memory(optimizer: torch.optim.Optimizer) -> None:
    """Free the gradients and torch's cached CUDA memory."""
    optimizer.zero_grad(set_to_none=True)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
