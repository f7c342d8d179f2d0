"""What every family promises, over every variation in FAMILIES, at 32 px."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Settings, list_settings
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.evaluation.calibration import apply_temperature
from eyevsai.explanation.grad_cam import grad_cam
from eyevsai.models.factory import FAMILIES, build, get_family
from eyevsai.models.learner import FeatureLearner, Learner, SpatialLearner
from eyevsai.models.serialization import load, save
from tests.conftest import draw_image
from tests.unit.large import no_large_init

ALL = [(family, name) for family in FAMILIES for name in get_family(family).variations]
TINY = {
    "image_size": 32,
    "epochs": 2,
    "batch_size": 16,
    "device": "cpu",
    "precision": "float32",
    "width": 8,
    "weights": "none",
    "freeze_epochs": 1,
    "fine_tune_epochs": 2,
    "feature_views": 2,
    # A solved head on features of random weights has large weights, which amplify rounding errors.
    "head_solver": "sgd",
}


def tiny(family: str, variation: str) -> Settings:
    declared = get_family(family).variations[variation].settings
    known = {setting.name for setting in list_settings(declared)}
    return declared(**{name: value for name, value in TINY.items() if name in known})


class Fitted:
    def __init__(self, family: str, variation: str, source: Path, cache: Path) -> None:
        self.family, self.variation = family, variation
        dataset = load_dataset(DataSettings(data=str(source), cache_dir=str(cache)))
        self.learner = self.build(dataset.classes)
        self.learner.prepare(dataset.labels_of("train"))
        self.data: Data = dataset.open(self.learner.preprocessing)
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.learner.fit(
            self.data.train, self.data.valid, lambda epoch, row: self.rows.append((epoch, row))
        )

    def build(self, classes: tuple[str, ...]) -> Learner:
        with no_large_init():
            return build(
                self.family, self.variation, tiny(self.family, self.variation), classes, seed=0
            )


# the code of resnet50 and efficientnet_b0
DEEPER = [("transfer", "resnet101"), ("transfer", "efficientnet_b1")]
PAIRS = [
    pytest.param(
        pair,
        id="/".join(pair),
        marks=[
            pytest.mark.xdist_group("/".join(pair)),
            *([pytest.mark.slow] if pair in DEEPER else []),
        ],
    )
    for pair in ALL
]


@pytest.fixture(scope="module", params=PAIRS)
def fitted(request: pytest.FixtureRequest, stripes: Path, cache_dir: Path) -> Fitted:
    return Fitted(*request.param, stripes, cache_dir)


def mixed_images() -> list[np.ndarray]:
    return [
        draw_image(label, 50 + label, width, height)
        for label, (width, height) in enumerate([(40, 32), (200, 31), (33, 90), (8, 8), (32, 32)])
    ]


def test_on_epoch_gives_the_rows_that_a_run_logs(fitted: Fitted) -> None:
    assert [epoch for epoch, _ in fitted.rows] == list(range(1, len(fitted.rows) + 1))
    for _, row in fitted.rows:
        assert {"train/loss", "train/accuracy", "valid/loss", "valid/accuracy"} <= set(row)
        assert all(np.isfinite(value) for value in row.values())


def test_probabilities_sum_to_one(fitted: Fitted) -> None:
    probabilities = fitted.learner.predict_proba(mixed_images())
    assert probabilities.shape == (5, 3)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)


def test_an_image_is_predicted_alike_in_any_company(fitted: Fitted) -> None:
    images = mixed_images()
    together = fitted.learner.predict_proba(images)
    for image, row in zip(images, together, strict=True):
        np.testing.assert_allclose(fitted.learner.predict_proba([image])[0], row, atol=1e-5)
    assert fitted.learner.predict_proba([]).shape == (0, 3)


def test_saved_and_loaded_is_bit_equal(fitted: Fitted, tmp_path: Path) -> None:
    save(fitted.learner, tmp_path)
    again = load(tmp_path)
    assert np.array_equal(
        again.predict_proba(mixed_images()), fitted.learner.predict_proba(mixed_images())
    )
    assert (again.classes, again.settings) == (fitted.learner.classes, fitted.learner.settings)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json"}


def test_the_same_seed_gives_the_same_weights(fitted: Fitted) -> None:
    again = fitted.build(fitted.learner.classes)
    again.prepare(fitted.data.dataset.labels_of("train"))
    again.fit(fitted.data.train, fitted.data.valid, lambda epoch, row: None)
    tensors = fitted.learner.tensors()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in again.tensors().items())


@pytest.mark.parametrize("batch", [1, 7, 32])
def test_the_graph_says_what_predict_proba_says(fitted: Fitted, batch: int) -> None:
    for height, width in ((32, 40), (90, 33), (64, 200)):
        images = np.stack([draw_image(n % 3, n, width, height) for n in range(batch)])
        with torch.inference_mode():
            probabilities = fitted.learner.inference_module()(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(probabilities, fitted.learner.predict_proba(images), atol=1e-5)


def test_a_temperature_is_kept_and_every_way_to_predict_obeys_it(
    fitted: Fitted, tmp_path: Path
) -> None:
    images = np.stack([draw_image(n % 3, n, 32, 40) for n in range(4)])
    cold = fitted.learner.predict_proba(images)
    fitted.learner.temperature = 1.7
    try:
        save(fitted.learner, tmp_path)
        warm, again = fitted.learner.predict_proba(images), load(tmp_path)
        with torch.inference_mode():
            drawn = fitted.learner.inference_module()(torch.from_numpy(images)).numpy()
    finally:
        fitted.learner.temperature = 1.0
    np.testing.assert_allclose(warm, apply_temperature(cold, 1.7), atol=1e-5)
    np.testing.assert_allclose(drawn, warm, atol=1e-5)
    assert again.temperature == 1.7
    assert np.array_equal(again.predict_proba(images), warm)


def test_where_it_looked_is_said_by_every_learner_that_has_a_map(fitted: Fitted) -> None:
    image = draw_image(0, 60, 40, 32)
    if not isinstance(fitted.learner, SpatialLearner):
        assert isinstance(fitted.learner, FeatureLearner)
        return
    heat = grad_cam(fitted.learner, [image], [0])
    assert heat.shape == (1, 32, 32)
    assert np.isfinite(heat).all()
    assert 0 <= heat.min() <= heat.max() <= 1


def test_a_changed_file_is_refused(fitted: Fitted, tmp_path: Path) -> None:
    save(fitted.learner, tmp_path)
    weights, card = tmp_path / "model.safetensors", tmp_path / "model.json"
    saved = card.read_text()
    card.write_text(saved.replace(f'"{fitted.learner.classes[0]}"', '"another"'))
    with pytest.raises(UserError, match=r"model.json is not the file that was saved"):
        load(tmp_path)
    card.write_text(saved)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"model.safetensors is not the file that was saved"):
        load(tmp_path)


def test_a_family_is_described_for_engineers_and_for_anyone(fitted: Fitted) -> None:
    about = get_family(fitted.family).variations[fitted.variation]
    assert about.title
    assert about.technical
    assert about.simple
