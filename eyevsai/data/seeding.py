"""Seeds and generators for each purpose: a random draw is a function of the seed and its purpose.

It does not depend on the number of earlier draws, so a resumed run draws the same numbers as an
uninterrupted one.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, for example `derive_seed(0, "order", epoch)`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a generator for one purpose, on the CPU: draws do not depend on the device."""
    return torch.Generator().manual_seed(derive_seed(seed, *purpose))
