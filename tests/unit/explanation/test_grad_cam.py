"""Grad-CAM explains: what it lights up is what the class depends on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.explanation.grad_cam import grad_cam
from eyevsai.models.factory import build, get_family
from eyevsai.models.learner import SpatialLearner

pytestmark = pytest.mark.xdist_group("grad_cam")  # one worker trains the learner
SIDE, PATCH = 256, 160  # a patch several times what one place of the last map sees
COLORS = {
    "blue": (30, 40, 230),
    "green": (40, 200, 40),
    "red": (230, 40, 30),
    "yellow": (220, 220, 40),
}


def plant(name: str, number: int) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Noise in which one patch, in some corner, has the colour of the class."""
    random = np.random.default_rng((number, len(name)))
    image = random.integers(90, 160, (SIDE, SIDE, 3)).astype(np.uint8)
    top, left = (SIDE - PATCH) * random.integers(0, 2, 2)
    where = (slice(top, top + PATCH), slice(left, left + PATCH))
    image[where] = np.array(COLORS[name]) + random.integers(-20, 20, (PATCH, PATCH, 3))
    return image, where


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> SpatialLearner:
    folder = tmp_path_factory.mktemp("patches") / "patches"
    for name in COLORS:
        (folder / name).mkdir(parents=True)
        for number in range(14):
            Image.fromarray(plant(name, number)[0]).save(folder / name / f"{number}.png")
    dataset = load_dataset(DataSettings(data=str(folder), cache_dir=str(cache_dir)))
    settings = (
        get_family("deep_v1")
        .variations["standard"]
        .settings(
            image_size=SIDE,
            width=8,
            epochs=12,
            batch_size=8,
            precision="float32",
            crop_scale=0.8,
            random_erasing=0.0,
            lr=3e-3,
        )
    )
    built = build("deep_v1", "standard", settings, dataset.classes, seed=0)
    data = dataset.open(built.preprocessing)
    built.fit(data.train, data.valid, lambda epoch, row: None)
    assert isinstance(built, SpatialLearner)
    return built


def test_the_planted_patch_is_what_is_looked_at(learner: SpatialLearner) -> None:
    planted = [(name, *plant(name, number)) for name in COLORS for number in range(100, 110)]
    images = [image for _, image, _ in planted]
    wanted = [learner.classes.index(name) for name, *_ in planted]
    assert (learner.predict_proba(images).argmax(1) == wanted).all()
    heat = grad_cam(learner, images, wanted)
    assert (heat.shape, heat.dtype) == ((40, SIDE, SIDE), np.float32)
    assert 0 <= heat.min() <= heat.max() == 1
    inside = [
        warmth[where].sum() / warmth.sum()
        for warmth, (*_, where) in zip(heat, planted, strict=True)
    ]
    elsewhere = [
        warmth[::-1, ::-1][where].sum()
        / warmth.sum()  # as if the patch were in the opposite corner
        for warmth, (*_, where) in zip(heat, planted, strict=True)
    ]
    assert np.mean(inside) >= 0.7
    assert np.mean(elsewhere) < 0.5  # so no heat that lies in the middle of every image would do


def test_looking_changes_nothing(learner: SpatialLearner) -> None:
    image, _ = plant("red", 500)
    learner.network.train()
    before = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    for weight in learner.network.parameters():
        weight.grad = None
    grad_cam(learner, [image], [0])
    assert learner.network.training
    assert all(tensor.equal(before[name]) for name, tensor in learner.tensors().items())
    assert all(weight.grad is None for weight in learner.network.parameters())
    assert grad_cam(learner, [], []).shape == (0, SIDE, SIDE)
