"""Whitening filters in the first convolution of networks from scratch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from eyevsai.core.settings import Settings
from eyevsai.data.dataset import Data, Split, load_dataset
from eyevsai.data.pixel_cache import PixelCache
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.models.factory import build, get_family
from eyevsai.models.network_learner import NetworkLearner
from eyevsai.training.settings import NetworkSettings
from eyevsai.training.whitening import first_convolution, whiten

SIZE = 32
MODELS = ["deep_v1/standard", "deep_v1/residual", "deep_v2/resnet", "deep_v2/hybrid"]


@pytest.fixture(scope="module")
def data(stripes: Path, cache_dir: Path) -> Data:
    settings = DataSettings(data=str(stripes), cache_dir=str(cache_dir))
    return load_dataset(settings).open(Preprocessing(SIZE))


def train(data: Data, model: str = MODELS[0], **changes: object) -> NetworkLearner:
    """Return a learner after one epoch."""
    fixed = {"image_size": SIZE, "epochs": 1, "batch_size": 16, "precision": "float32"}
    family, variation = model.split("/")
    kind = get_family(family).variations[variation].settings
    settings = kind(**fixed, device="cpu", **changes)
    learner = untrained(data, settings, model)
    learner.fit(data.train, data.valid, lambda epoch, row: None)
    return learner


def untrained(data: Data, settings: Settings, model: str = MODELS[0]) -> NetworkLearner:
    """Return a new learner."""
    learner = build(*model.split("/"), settings, data.dataset.classes, 0)
    assert isinstance(learner, NetworkLearner)
    return learner


def first_filters(learner: NetworkLearner) -> torch.Tensor:
    """Return the filters of the first convolution, one in each row."""
    convolution = first_convolution(learner.network)
    assert convolution is not None
    return convolution.weight.detach().flatten(1)


def patches(data: Data) -> torch.Tensor:
    """Return all normalised patches of 3 x 3 pixels of the train images, one in each row."""
    preprocessing = Preprocessing(SIZE)
    images = data.train.images(range(len(data.train)))
    crops = torch.cat([preprocessing.crop(image[None]) for image in images])
    rows = torch.nn.functional.unfold(preprocessing.normalize(crops), 3, stride=5)
    return rows.permute(0, 2, 1).flatten(0, 1)


@pytest.mark.parametrize("model", MODELS)
def test_filters_decorrelate_the_patches_of_train_images(data: Data, model: str) -> None:
    learner = train(data, model)
    filters = first_filters(learner)
    half = len(filters) // 2
    assert torch.equal(filters[half:], -filters[:half])
    outputs = (patches(data) @ filters[:half].T).double()
    moments = (outputs.T @ outputs / len(outputs)).numpy()
    variances = np.diag(moments)
    np.testing.assert_allclose(moments, np.diag(variances), atol=1e-3 * variances.max())
    assert np.all(np.diff(variances) <= 0)  # those of large variances first
    # as large as the drawn filters: pruning compares norms
    norm = first_filters(untrained(data, learner.settings, model)).norm(dim=1).mean()
    torch.testing.assert_close(filters.norm(dim=1), norm.expand(len(filters)))


def test_filters_are_those_of_scikit_learn(data: Data) -> None:
    rows = patches(data).double().numpy()
    reference = PCA(whiten=True).fit(np.concatenate([rows, -rows]))  # with a mean of zero
    filters = first_filters(train(data)).double().numpy()
    for number in range(3):  # of three large and different variances
        cosine = filters[number] @ reference.components_[number] / np.linalg.norm(filters[number])
        assert abs(cosine) == pytest.approx(1, abs=1e-3)


def test_the_layer_is_trained_if_it_has_few_filters(data: Data) -> None:
    filters = first_filters(train(data, width=16))
    assert not torch.equal(filters[8:], -filters[:8])
    np.testing.assert_allclose(filters[8:], -filters[:8], atol=0.2)  # it began with them


def test_patches_of_grey_images_have_few_directions(data: Data) -> None:
    network = untrained(data, DeepV1Settings(image_size=SIZE)).network
    convolution = first_convolution(network)
    assert convolution is not None
    drawn = convolution.weight.detach().flatten(1).clone()
    grey = torch.randint(0, 256, (40, SIZE, SIZE, 1), dtype=torch.uint8).expand(-1, -1, -1, 3)
    whiten(network, make_split(grey), Preprocessing(SIZE), seed=0)
    filters = convolution.weight.detach().flatten(1)
    # those of nine pixels, at most one more for the colour, which is constant
    num_pairs = next(n for n in range(1, 17) if torch.equal(filters[2 * n :], drawn[2 * n :]))
    assert num_pairs in (9, 10)
    assert convolution.weight.requires_grad


def test_a_constant_image_has_no_filters_but_its_mean(data: Data) -> None:
    network = untrained(data, DeepV1Settings(image_size=SIZE)).network
    convolution = first_convolution(network)
    assert convolution is not None
    drawn = convolution.weight.detach().flatten(1).clone()
    constant = torch.full((2, SIZE, SIZE, 3), 9, dtype=torch.uint8)
    whiten(network, make_split(constant), Preprocessing(SIZE), seed=0)
    filters = convolution.weight.detach().flatten(1)
    assert torch.equal(filters[2:], drawn[2:])
    assert torch.isfinite(filters).all()


def test_all_ranks_have_the_filters_of_rank_0(data: Data) -> None:
    settings = DeepV1Settings(image_size=SIZE)
    first, second = untrained(data, settings).network, untrained(data, settings).network
    sent: list[float] = []

    def send(values: Sequence[float]) -> list[float]:
        sent.extend(values)
        return list(values)

    grey = make_split(torch.zeros(4, SIZE, SIZE, 3, dtype=torch.uint8))
    whiten(first, data.train, Preprocessing(SIZE), 0, send)
    whiten(second, grey, Preprocessing(SIZE), 0, lambda values: sent[: len(values)])
    one, other = first_convolution(first), first_convolution(second)
    assert one is not None
    assert other is not None
    assert torch.equal(one.weight, other.weight)
    assert one.weight.requires_grad == other.weight.requires_grad


def test_filters_are_trained_without_whitening(data: Data) -> None:
    learner = train(data, whitening=False)
    filters = first_filters(learner)
    half = len(filters) // 2
    assert not torch.allclose(filters[half:], -filters[:half])
    assert not torch.equal(filters, first_filters(untrained(data, learner.settings)))


def test_a_recovery_training_starts_from_the_filters_of_the_model(data: Data) -> None:
    learner = train(data, width=32)
    before = first_filters(learner).clone()
    settings = cast(NetworkSettings, learner.settings).recovery_settings(1)
    learner.settings = replace(settings, lr=1e-6)
    learner.fit(data.train, data.valid, lambda epoch, row: None)
    after = first_filters(learner)
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-3)


def make_split(images: torch.Tensor) -> Split:
    """Return a split of images N,H,W,3 uint8."""
    count, height, width, _ = images.shape
    flat = images.contiguous().numpy().reshape(-1)
    shapes = np.full((count, 2), (height, width), dtype=np.int32)
    starts = np.arange(count, dtype=np.int64) * 3 * height * width
    return Split(PixelCache(flat, shapes, starts), range(count), torch.arange(count) % 2)
