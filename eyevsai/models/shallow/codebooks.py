"""Codebooks of visual words, fitted to a sample of the train split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.data.dataset import Split
from eyevsai.data.parallel import parallel_map
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.seeding import make_generator
from eyevsai.features.extractor import Extractor
from eyevsai.features.visual_words import SAMPLE, SEED, fit_codebook

IMAGES = 512  # most images in the sample


def fit_codebooks(
    extractor: Extractor, preprocessing: Preprocessing, train: Split, key: str
) -> dict[str, Tensor]:
    """Return the state dict of the extractor, read from the cache of features or fitted.

    They depend on the images and on `key`, and not on the seed of a model, so that features are
    extracted once for models of all seeds.

    Args:
        extractor: extractor whose `settings.word_groups` need codebooks.
        preprocessing: makes the crops that the extractor expects.
        train: train split.
        key: identifies the settings of `extractor` and `preprocessing`.
    """
    names = extractor.settings.word_groups
    if not names:
        return {}

    table = train.cached_features(
        f"codebooks/{key}", lambda: _fit_table(extractor, preprocessing, train)
    )
    state, row = {}, 0
    for name in names:
        rows = extractor.get_buffer(f"{name}.weight").shape[0]
        state[f"{name}.weight"] = table[row : row + rows].clone()
        state[f"{name}.bias"] = table[row + rows].clone()
        row += rows + 1
    return state


def _fit_table(extractor: Extractor, preprocessing: Preprocessing, train: Split) -> Tensor:
    """Return the weights and the bias of each codebook, one below the other: rows,words float32."""
    order = torch.randperm(len(train), generator=make_generator(SEED, "codebook images"))
    indices = sorted(order[:IMAGES].tolist())
    task = _Blocks(train, preprocessing, extractor)
    parts = list(parallel_map(task, indices, "Sampling blocks"))
    rows = []
    for name in extractor.settings.word_groups:
        blocks = np.concatenate([part[name] for part in parts])
        draw = np.random.default_rng(SEED)
        chosen = draw.choice(len(blocks), SAMPLE, replace=len(blocks) < SAMPLE)
        weight, bias = fit_codebook(blocks[chosen], extractor.settings.words)
        rows += [weight, bias[None]]
    return torch.cat(rows)


@dataclass(frozen=True)
class _Blocks:
    """Task of a worker process: from indices of a split to the descriptors of blocks, by name."""

    split: Split
    preprocessing: Preprocessing
    extractor: Extractor

    def __call__(self, indices: Sequence[int]) -> dict[str, npt.NDArray[np.float32]]:
        crops = torch.cat(
            [self.preprocessing.crop(image[None]) for image in self.split.images(indices)]
        )
        blocks = self.extractor.extract_blocks(crops)
        return {name: descriptors.numpy() for name, descriptors in blocks.items()}
