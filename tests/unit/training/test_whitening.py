"""The first convolution of networks from scratch: whitening filters, which are not trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from eyevsai.core.settings import Settings
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import build, get_family
from eyevsai.models.network_learner import NetworkLearner
from eyevsai.training.settings import NetworkSettings
from eyevsai.training.whitening import first_convolution

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
    return first_convolution(learner.network).weight.detach().flatten(1)


def patches(data: Data) -> torch.Tensor:
    """Return all normalised patches of 3 x 3 pixels of the train images, one in each row."""
    preprocessing = Preprocessing(SIZE)
    images = data.train.images(range(len(data.train)))
    crops = torch.cat([preprocessing.crop(image[None]) for image in images])
    rows = torch.nn.functional.unfold(preprocessing.normalize(crops), 3, stride=5)
    return rows.permute(0, 2, 1).flatten(0, 1)


@pytest.mark.parametrize("model", MODELS)
def test_filters_whiten_the_patches_of_train_images(data: Data, model: str) -> None:
    filters = first_filters(train(data, model))
    half = len(filters) // 2
    torch.testing.assert_close(filters[half:], -filters[:half], rtol=0, atol=0)
    outputs = (patches(data) @ filters[:half].T).double()
    moments = (outputs.T @ outputs / len(outputs)).numpy()
    np.testing.assert_allclose(moments, np.diag(np.diag(moments)), atol=0.01)
    assert np.all(np.diff(np.diag(moments)) <= 1e-3)  # those of large variances first
    assert 0.99 < moments[0, 0] <= 1.001


def test_filters_are_those_of_scikit_learn(data: Data) -> None:
    rows = patches(data).double().numpy()
    reference = PCA(whiten=True).fit(np.concatenate([rows, -rows]))  # with a mean of zero
    filters = first_filters(train(data)).double().numpy()
    for number in range(3):  # of three large and different variances
        expected = reference.components_[number] / np.sqrt(
            reference.explained_variance_[number] + 5e-4
        )
        actual = filters[number] * np.sign(filters[number] @ expected)
        np.testing.assert_allclose(actual, expected, rtol=2e-2, atol=2e-3)


def test_filters_are_trained_without_whitening(data: Data) -> None:
    learner = train(data, whitening=False)
    filters = first_filters(learner)
    half = len(filters) // 2
    assert not torch.allclose(filters[half:], -filters[:half])
    assert not torch.equal(filters, first_filters(untrained(data, learner.settings)))


def test_more_filters_than_patches_have_dimensions_keep_their_values(data: Data) -> None:
    learner = train(data, width=64)
    filters = first_filters(learner)
    drawn = first_filters(untrained(data, learner.settings))
    dimensions = 27  # of a patch of 3 x 3 pixels
    assert torch.equal(filters[2 * dimensions :], drawn[2 * dimensions :])
    torch.testing.assert_close(
        filters[dimensions : 2 * dimensions], -filters[:dimensions], rtol=0, atol=0
    )


def test_a_recovery_training_keeps_the_filters_of_the_model() -> None:
    settings = NetworkSettings()
    assert settings.whitening
    assert not settings.recovery_settings(3).whitening
