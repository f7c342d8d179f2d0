"""Every random draw of the project is a function of a seed and of what the draw is for.

Nothing depends on how many numbers were drawn before, so a run that is resumed in the middle
draws what the uninterrupted run would have drawn.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: `derive_seed(0, "order", epoch)`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose; CPU always, so that devices draw alike."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
