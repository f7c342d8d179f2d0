"""HOG, LBP and colour histograms with scikit-image, in two processes."""

from __future__ import annotations

import json
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage.color import rgb2hsv
from skimage.feature import hog, local_binary_pattern

SHARED: dict[str, list[Any]] = {"images": []}  # inherited by forked workers


def read(path: str, size: int) -> Any:
    """Return the centre crop of an image file, S,S,3 uint8."""
    short = round(1.15 * size)
    with Image.open(path) as image:
        scale = short / min(image.size)
        sides = (max(short, round(image.width * scale)), max(short, round(image.height * scale)))
        pixels = np.asarray(image.convert("RGB").resize(sides, Image.Resampling.BILINEAR))
    y, x = ((side - size) // 2 for side in pixels.shape[:2])
    return np.ascontiguousarray(pixels[y : y + size, x : x + size])


def describe(crop: Any) -> Any:
    """Return the features of a crop; of the grids of histograms only the finest one.

    Coarser grids are sums of its cells.
    """
    parts = [hog(crop, 9, (16, 16), (2, 2), channel_axis=-1)]
    grey = np.asarray(Image.fromarray(crop).convert("L"))
    hsv = rgb2hsv(crop.astype(np.float64))
    codes = [
        local_binary_pattern(grey, count, radius, "uniform") for count, radius in ((8, 1), (16, 2))
    ]
    for rows in np.array_split(np.arange(len(crop)), 4):
        for columns in np.array_split(np.arange(len(crop)), 4):
            part = np.ix_(rows, columns)
            for code, bins in zip(codes, (10, 18), strict=True):
                parts.append(np.bincount(code[part].astype(np.int64).ravel(), minlength=bins))
            ranges = ((0, 1), (0, 1), (0, 255))
            counts, _ = np.histogramdd(hsv[part].reshape(-1, 3), bins=(8, 3, 3), range=ranges)
            parts.append(counts.ravel())
    return np.concatenate(parts).astype(np.float32)


def describe_file(arguments: tuple[str, int]) -> Any:
    """Return the features of an image file."""
    return describe(read(*arguments))


def describe_number(number: int) -> Any:
    """Return the features of an image in memory."""
    return describe(SHARED["images"][number])


def features(data: str, size: int, workers: int) -> dict[str, float]:
    """Return the seconds of features from files, and from images in memory."""
    paths = [str(path) for path in sorted(Path(data).glob("*/*.jpg"))]
    context = get_context("fork")
    start = time.perf_counter()
    with context.Pool(workers) as pool:
        rows = pool.map(describe_file, [(path, size) for path in paths], chunksize=16)
    files_s = time.perf_counter() - start
    SHARED["images"] = [read(path, size) for path in paths]
    start = time.perf_counter()
    with context.Pool(workers) as pool:
        again = pool.map(describe_number, range(len(paths)), chunksize=16)
    memory_s = time.perf_counter() - start
    if len(rows) != len(paths) or not np.array_equal(rows, again):
        raise SystemExit("the features differ")
    return {"files_s": files_s, "images_per_s": len(paths) / memory_s}


if __name__ == "__main__":
    values = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print(json.dumps({"values": values}), flush=True)
