"""Features of a split and the codebooks that they need, computed in worker processes or cached."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.core.settings import list_settings
from eyevsai.data.dataset import Split
from eyevsai.data.parallel import parallel_map
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.seeding import make_generator
from eyevsai.features.extractor import VERSION, Extractor
from eyevsai.features.settings import FeatureSettings
from eyevsai.features.visual_words import SAMPLE, SEED, fit_codebook

IMAGES = 512  # most images in the sample of a codebook


def extract_features(extractor: Extractor, preprocessing: Preprocessing, split: Split) -> Tensor:
    """Return the N,D float32 features of all images of a split, from the cache or computed."""
    codebooks = extractor.state_dict().values()
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in codebooks))
    key = f"{_key(extractor, preprocessing)}/{digest.hexdigest()}"
    return split.cached_features(key, lambda: _extract(extractor, preprocessing, split))


def fit_codebooks(
    extractor: Extractor, preprocessing: Preprocessing, train: Split
) -> dict[str, Tensor]:
    """Return the state dict of the extractor, fitted to a sample of train or read from the cache.

    It does not depend on the seed of a model, so that features are extracted once for models of all
    seeds.
    """
    names = extractor.settings.word_groups
    if not names:
        return {}
    key = f"codebooks/{_key(extractor, preprocessing)}"
    table = train.cached_features(key, lambda: _fit_table(extractor, preprocessing, train))
    state, row = {}, 0
    for name in names:
        rows = extractor.get_buffer(f"{name}.weight").shape[0]
        state[f"{name}.weight"] = table[row : row + rows].clone()
        state[f"{name}.bias"] = table[row + rows].clone()
        row += rows + 1
    return state


def _key(extractor: Extractor, preprocessing: Preprocessing) -> str:
    """Return what features depend on besides the images and the codebooks."""
    values = {
        each.name: getattr(extractor.settings, each.name) for each in list_settings(FeatureSettings)
    }
    return f"{VERSION}/{preprocessing.to_json()}/{values}"


def _extract(extractor: Extractor, preprocessing: Preprocessing, split: Split) -> Tensor:
    task = _Features(split, preprocessing, extractor)
    features = torch.empty(len(split), extractor.dimensions)
    start = 0
    for part in parallel_map(task, range(len(split)), "Extracting features"):
        features[start : start + len(part)] = torch.from_numpy(part)
        start += len(part)
    return features


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
class _Task:
    """Task of a worker process, called with indices of a split."""

    split: Split
    preprocessing: Preprocessing
    extractor: Extractor

    def crops(self, indices: Sequence[int]) -> Tensor:
        """Return the crops N,S,S,3 uint8."""
        images = self.split.images(indices)
        return torch.cat([self.preprocessing.crop(image[None]) for image in images])


class _Features(_Task):
    """Task that returns features N,D float32."""

    def __call__(self, indices: Sequence[int]) -> npt.NDArray[np.float32]:
        features: npt.NDArray[np.float32] = self.extractor.extract(self.crops(indices)).numpy()
        return features


class _Blocks(_Task):
    """Task that returns the descriptors N,D float32 of blocks, by group of visual words."""

    def __call__(self, indices: Sequence[int]) -> dict[str, npt.NDArray[np.float32]]:
        blocks = self.extractor.extract_blocks(self.crops(indices))
        return {name: descriptors.numpy() for name, descriptors in blocks.items()}
