"""Speed of handcrafted features at 128 px from the pixel cache, compared with scikit-image.

default       the features of the default settings, with visual words
same          HOG, LBP of 8 and 16 neighbours, and colour histograms
scikit-image  the same with scikit-image and numpy

All run in two processes, alternately; the median of the rounds is reported. Limits: `default` 1,500
images/s on two cores, and `same` 8 times scikit-image.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

from benchmarks.photographs import are_missing, load_union

ROUNDS, PEER_IMAGES = 5, 384


class Peer:
    """Computation of the same features with scikit-image and numpy."""

    def __init__(self, split, preprocessing) -> None:  # type: ignore[no-untyped-def]
        self.split, self.preprocessing = split, preprocessing

    def __call__(self, indices: Sequence[int]) -> int:
        """Compute the features of the images at `indices`; return the number of images."""
        import numpy as np
        from PIL import Image
        from skimage.color import rgb2hsv
        from skimage.feature import hog, local_binary_pattern

        for image in self.split.images(indices):
            crop = self.preprocessing.crop(image[None])[0].numpy()
            hog(crop, 9, (16, 16), (2, 2), channel_axis=-1)
            grey = np.asarray(Image.fromarray(crop).convert("L"))
            hsv = rgb2hsv(crop.astype(np.float64))
            codes = [
                local_binary_pattern(grey, count, radius, "uniform")
                for count, radius in ((8, 1), (16, 2))
            ]
            # only the finest grid: coarser grids are sums of its cells
            for rows in np.array_split(np.arange(128), 4):
                for columns in np.array_split(np.arange(128), 4):
                    part = np.ix_(rows, columns)
                    for code, bins in zip(codes, (10, 18), strict=True):
                        np.bincount(code[part].astype(np.int64).ravel(), minlength=bins)
                    np.histogramdd(
                        hsv[part].reshape(-1, 3), bins=(8, 3, 3), range=((0, 1), (0, 1), (0, 255))
                    )
        return len(indices)


def main() -> None:
    if are_missing():
        return
    from eyevsai.data.parallel import parallel_map
    from eyevsai.models.shallow.learner import ShallowLearner
    from eyevsai.models.shallow.settings import SvmSettings

    dataset = load_union()
    same = SvmSettings(features="hog,lbp,color", lbp_neighbours="both")
    learners = {
        name: ShallowLearner("svm_hog_lbp", settings, dataset.classes, 0)
        for name, settings in (("default", SvmSettings()), ("same", same))
    }
    preprocessing = learners["default"].preprocessing
    # without a cache: cached features would not be computed
    train = replace(dataset.open(preprocessing).train, cache=None)
    rates: dict[str, list[float]] = {"default": [], "same": [], "scikit-image": []}
    for _ in range(ROUNDS):
        for name, learner in learners.items():
            start = time.perf_counter()
            learner.extract(train)
            rates[name].append(len(train) / (time.perf_counter() - start))
        start = time.perf_counter()
        list(parallel_map(Peer(train, preprocessing), range(PEER_IMAGES), "scikit-image"))
        rates["scikit-image"].append(PEER_IMAGES / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, values in rates.items():
        print(
            f"{name:<14}{medians[name]:8.0f} images/s   "
            f"({', '.join(f'{rate:.0f}' for rate in values)})"
        )
    ratio = medians["same"] / medians["scikit-image"]
    print(f"same / scikit-image   {ratio:.1f}   (limits 8, and 1,500 images/s for default)")
