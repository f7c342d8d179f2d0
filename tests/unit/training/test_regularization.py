"""Mixing, averages, dropout that rises and test-time flips: each does what it is named after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from eyevsai.core.errors import UserError
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.training.batches import check_batches
from eyevsai.training.ema import ModelEma
from eyevsai.training.loss import balanced_weights, micro_batch_loss
from eyevsai.training.mixup import mix_batch
from eyevsai.training.settings import RegularizationSettings
from eyevsai.training.trainer import Trainer
from tests.conftest import draw_image

TINY = DeepV1Settings(
    image_size=32, width=4, head_units=0, epochs=2, batch_size=16, precision="float32", device="cpu"
)
IMAGES = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 3, 16, 16).contiguous()
LABELS = torch.arange(8)


@pytest.fixture(scope="module")
def data(stripes: Path, cache_dir: Path) -> Data:
    settings = DataSettings(data=str(stripes), cache_dir=str(cache_dir))
    return load_dataset(settings).open(Preprocessing(32))


def mixed(seed: int, **settings: float) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    return mix_batch(IMAGES.clone(), LABELS, 8, RegularizationSettings(mixup_prob=1.0, **settings))


def test_without_it_nothing_is_mixed() -> None:
    images, labels = mixed(0)
    assert torch.equal(images, IMAGES)
    assert torch.equal(labels, LABELS)


def test_mixup_blends_images_as_it_blends_labels() -> None:
    for seed in range(5):
        images, shares = mixed(seed, mixup=0.4)
        assert ((shares > 0).sum(1) <= 2).all()
        torch.testing.assert_close(shares.sum(1), torch.ones(8))
        # each image has its number as its only value
        blend = (shares * torch.arange(8.0)).sum(1).view(8, 1, 1, 1)
        torch.testing.assert_close(images, blend.expand_as(images))


def test_cutmix_pastes_a_part_as_large_as_its_share_of_the_label() -> None:
    for seed in range(5):
        images, shares = mixed(seed, cutmix=1.0)
        assert torch.equal(images, images.round())  # nothing is blended
        for image, share in zip(images, shares, strict=True):
            torch.testing.assert_close(
                torch.bincount(image[0].flatten().long(), minlength=8) / 256, share
            )


def test_with_both_one_of_the_two_is_drawn_for_a_share_of_the_batches() -> None:
    settings = RegularizationSettings(mixup=0.4, cutmix=1.0, mixup_prob=0.5)
    kinds = []
    for seed in range(200):
        torch.manual_seed(seed)
        images, shares = mix_batch(IMAGES.clone(), LABELS, 8, settings)
        kinds.append(
            "none"
            if shares.ndim == 1
            else "cutmix"
            if torch.equal(images, images.round())
            else "mixup"
        )
    counts = {kind: kinds.count(kind) for kind in ("none", "cutmix", "mixup")}
    assert 70 < counts["none"] < 130
    assert min(counts["cutmix"], counts["mixup"]) > 25


@pytest.mark.parametrize("weighted", [True, False])
def test_the_losses_of_parts_of_a_mixed_batch_add_up_to_the_whole(weighted: bool) -> None:
    _, shares = mixed(0, mixup=1.0)
    logits = torch.randn(8, 8)
    weights = (
        balanced_weights(torch.tensor([0, 0, 0, 1, 2, 3, 4, 5, 6, 7]), 8) if weighted else None
    )
    parts = [
        micro_batch_loss(a, b, shares, weights, 0.1)
        for a, b in zip(logits.tensor_split(3), shares.tensor_split(3), strict=True)
    ]
    torch.testing.assert_close(
        torch.stack(parts).sum(), micro_batch_loss(logits, shares, shares, weights, 0.1)
    )
    sure = nn.functional.one_hot(LABELS, 8).float()
    torch.testing.assert_close(
        micro_batch_loss(logits, sure, sure, weights, 0.1),
        micro_batch_loss(logits, LABELS, LABELS, weights, 0.1),
    )


def test_the_average_follows_the_weights_and_is_what_is_kept(data: Data) -> None:
    network = nn.Linear(2, 2)
    average = ModelEma(network, 0.5)
    average.update(set())
    expected = network.weight.detach().clone()
    for updates in range(1, 20):
        with torch.no_grad():
            network.weight += 1
        average.update(set())
        # an average of a few steps is not that of none
        decay = min(0.5, (1 + updates) / (10 + updates))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(average.eval_model.weight, expected)
    assert ModelEma(network, 0.0).eval_model is network

    learner = DeepV1Learner("standard", replace(TINY, ema_decay=0.95), data.dataset.classes, 0)
    rows: list[dict[str, float]] = []
    trainer = Trainer(learner.strategy(), learner.settings, learner.preprocessing, 0)
    trainer.fit(data.train, data.valid, lambda epoch, row: rows.append(row))
    probabilities = learner.predict_proba(data.valid.arrays())
    best = max(rows, key=lambda row: (row["valid/accuracy"], -row["valid/loss"]))
    own = probabilities[np.arange(len(data.valid)), data.valid.labels.numpy()]
    # what was evaluated was kept
    assert -np.log(own).mean() == pytest.approx(best["valid/loss"], rel=1e-5)


def test_dropout_rises_over_the_epochs(data: Data) -> None:
    settings = replace(TINY, dropout=0.4, dropout_warmup_epochs=4.0, epochs=5, patience=0)
    learner = DeepV1Learner("standard", settings, data.dataset.classes, 0)
    (dropout,) = [module for module in learner.network.modules() if isinstance(module, nn.Dropout)]
    rates: list[float] = []
    learner.fit(data.train, data.valid, lambda epoch, row: rates.append(dropout.p))
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_flips_make_an_image_and_its_mirror_image_one(data: Data) -> None:
    settings = replace(TINY, image_size=40)  # whose crop lies in the very middle
    learner = DeepV1Learner("standard", replace(settings, tta_flip=True), data.dataset.classes, 0)
    learner.network.eval()
    image = draw_image(1, 3, 46, 46)
    both = learner.predict_proba([image, np.ascontiguousarray(image[:, ::-1])])
    np.testing.assert_allclose(both[0], both[1], atol=1e-6)
    assert not learner.network.training  # a prediction leaves the learner as it was
    tensors = {name: tensor.clone() for name, tensor in learner.tensors().items()}
    graph = learner.inference_module()
    learner.predict_proba([image])
    said = graph(torch.from_numpy(image)[None]).detach().numpy()
    np.testing.assert_allclose(said, learner.predict_proba([image]), atol=1e-6)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in learner.tensors().items())
    plain = DeepV1Learner("standard", settings, data.dataset.classes, 0)
    expected = plain.predict_proba([image, np.ascontiguousarray(image[:, ::-1])]).mean(0)
    np.testing.assert_allclose(both[0], expected, atol=1e-6)


def test_memory_efficient_computes_in_four_times_as_many_parts(data: Data) -> None:
    rows: list[dict[str, float]] = []
    learner = DeepV1Learner(
        "standard", replace(TINY, memory_efficient=True), data.dataset.classes, 0
    )
    learner.fit(data.train, data.valid, lambda epoch, row: rows.append(row))
    assert rows[0]["grad_accum_steps"] == 4
    with pytest.raises(UserError, match=r"the 8 micro-batches of .* with --memory-efficient"):
        check_batches(replace(TINY, memory_efficient=True, grad_accum_steps=2, batch_size=12), 100)
