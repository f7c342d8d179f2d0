"""Images as they reach a dataset after a bad disk, a bad download or a bad intention."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "gif": "GIF", "webp": "WEBP", "tiff": "TIFF"}


def write_mutants(folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Writes `count` files, equal shares of six formats, each damaged in one of six ways."""
    random = np.random.default_rng(seed)
    picture = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    clean = {}
    for suffix, kind in KINDS.items():
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        clean[suffix] = buffer.getvalue()
    for number in range(count):
        suffix = list(KINDS)[number % len(KINDS)]
        path = folder / f"{number:06d}.{suffix}"
        path.write_bytes(mutate(bytearray(clean[suffix]), number // len(KINDS) % 6, random))
        yield path


def mutate(data: bytearray, way: int, random: np.random.Generator) -> bytes:
    """One damaged copy: bits flipped, cut short, a block zeroed, swapped, in the header, or from
    elsewhere.
    """
    size = len(data)
    at, length = int(random.integers(size)), int(random.integers(1, 64))
    if way == 0:
        for sandbox in random.integers(0, size, int(random.integers(1, 20))):
            data[sandbox] ^= 1 << int(random.integers(8))
    elif way == 1:
        del data[at:]
    elif way == 2:
        data[at : at + length] = bytes(length)
    elif way == 3:
        other = int(random.integers(size))
        data[at : at + length], data[other : other + length] = (
            data[other : other + length],
            data[at : at + length],
        )
    elif way == 4:
        sandbox = int(random.integers(min(64, size)))
        data[sandbox : sandbox + 4] = random.bytes(4)
    else:
        data[at:at] = random.bytes(length)
    return bytes(data)
