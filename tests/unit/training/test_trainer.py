from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from eyevsai.core.errors import JobError, UserError
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.network import DeepV1Learner, DeepV1Network
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.training.pace import RecordedPace
from eyevsai.training.strategy import TrainingStrategy
from eyevsai.training.trainer import Trainer
from eyevsai.training.trainer_state import EpochMetrics

TINY = DeepV1Settings(
    image_size=32, width=4, head_units=0, epochs=2, batch_size=16, precision="float32", device="cpu"
)


@pytest.fixture(scope="module")
def data(stripes: Path, cache_dir: Path) -> Data:
    settings = DataSettings(data=str(stripes), cache_dir=str(cache_dir))
    return load_dataset(settings).open(Preprocessing(32))


def fit(
    data: Data, settings: DeepV1Settings, seed: int = 0
) -> tuple[DeepV1Learner, list[EpochMetrics]]:
    learner = DeepV1Learner("standard", settings, data.dataset.classes, seed)
    rows: list[EpochMetrics] = []
    learner.fit(data.train, data.valid, on_epoch=lambda epoch, row: rows.append(row))
    return learner, rows


def equal(first: DeepV1Learner, second: DeepV1Learner) -> bool:
    return all(
        torch.equal(tensor, second.tensors()[name]) for name, tensor in first.tensors().items()
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_twice_is_bit_equal(data: Data, precision: str) -> None:
    settings = replace(TINY, precision=precision, dropout=0.5)
    (first, rows), (second, others) = fit(data, settings), fit(data, settings)
    assert equal(first, second)
    timings = {"images_per_s"}
    assert [{k: v for k, v in row.items() if k not in timings} for row in rows] == [
        {k: v for k, v in row.items() if k not in timings} for row in others
    ]
    assert not equal(first, fit(data, settings, seed=1)[0])


def test_the_callers_random_state_is_left_alone(data: Data) -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    fit(data, TINY)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_accumulation_moves_the_weights_as_one_batch_does(data: Data) -> None:
    class Linear(nn.Module):  # no batch normalisation: its statistics are those of the parts
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 32 * 32, 3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.layer(images.flatten(1))
            return logits

    states = []
    for parts in (1, 4):
        torch.manual_seed(0)
        network = Linear()
        settings = replace(
            TINY, grad_accum_steps=parts, class_weights=True, optimizer="sgd", epochs=1
        )
        Trainer(TrainingStrategy(network, settings), settings, Preprocessing(32), seed=0).fit(
            data.train, data.valid, lambda epoch, row: None
        )
        states.append(network.layer.weight.detach())
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-6)


def test_early_stopping_leaves_the_weights_of_the_best_epoch(data: Data) -> None:
    settings = replace(TINY, epochs=40, patience=3, lr=0.03, warmup_epochs=0, schedule="constant")
    learner, rows = fit(data, settings)
    ranks = [(row["valid/accuracy"], -row["valid/loss"]) for row in rows]
    best = ranks.index(max(ranks))
    assert len(rows) == min(40, best + 1 + 3)
    probabilities = torch.from_numpy(learner.predict_proba(data.valid.arrays()))
    accuracy = (probabilities.argmax(1) == data.valid.labels).double().mean().item()
    loss = nn.functional.nll_loss(probabilities.log(), data.valid.labels).item()
    assert accuracy == rows[best]["valid/accuracy"]
    assert loss == pytest.approx(rows[best]["valid/loss"], rel=1e-4)


class WithoutLearning(TrainingStrategy):
    def lrs_at(self, epoch: float) -> list[float]:
        return [0.0]


@pytest.mark.parametrize("scale", [0.5, 1.0])
@pytest.mark.parametrize("ratio", [1, 2])
def test_early_stopping_counts_epochs_since_images_have_the_full_size(
    stripes: Path, cache_dir: Path, scale: float, ratio: int
) -> None:
    folder = DataSettings(data=str(stripes), cache_dir=str(cache_dir))
    data = load_dataset(folder).open(Preprocessing(48))
    settings = replace(TINY, image_size=48, epochs=12, patience=3, initial_scale=scale)
    network = DeepV1Network(settings, 3, residual=False)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0  # constant statistics: no later epoch is better than the first
    strategy = WithoutLearning(network, settings)
    # as with --minutes: as many epochs as planned, or twice as many
    record = [[(epoch + 1) / ratio] * 3 for epoch in range(12 * ratio)]
    trained: list[int] = []
    Trainer(strategy, settings, Preprocessing(48), seed=0).fit(
        data.train,
        data.valid,
        lambda epoch, row: trained.append(epoch),
        pace=RecordedPace(record),
    )
    growing = ratio * strategy.last_change()
    assert growing == (ratio * 7 if scale < 1 else 0)
    assert len(trained) == (growing + 3 if growing else 1 + 3)


@pytest.mark.parametrize(("scale", "expected"), [(0.5, 1e-5), (1.0, 1e-8)])
def test_plateau_schedule_counts_epochs_since_images_have_the_full_size(
    scale: float, expected: float
) -> None:
    settings = replace(
        TINY,
        image_size=48,
        epochs=12,
        initial_scale=scale,
        schedule="plateau",
        plateau_patience=1,
        lr=1e-3,
        min_lr_ratio=0.0,
    )
    strategy = TrainingStrategy(DeepV1Network(settings, 3, residual=False), settings)
    for epoch in range(1, 13):
        strategy.end_epoch(epoch, 1.0)
    assert strategy.lrs_at(12.0) == [pytest.approx(expected)]


def test_nan_stops_before_the_update(data: Data) -> None:
    network = DeepV1Network(TINY, 3, residual=False)
    with torch.no_grad():
        next(network.parameters())[0] = float("nan")
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    settings = replace(TINY, whitening=False)  # which would replace the filters
    rows: list[EpochMetrics] = []
    with pytest.raises(JobError, match="epoch 1, step 1"):
        Trainer(TrainingStrategy(network, settings), settings, Preprocessing(32), 0).fit(
            data.train, data.valid, lambda e, row: rows.append(row)
        )
    assert not rows
    for name, weight in network.named_parameters():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad_accum_steps": 5}, "Choose a multiple of 5"),
        ({"batch_size": 2, "grad_accum_steps": 2}, "a multiple of 2, at least 4"),
    ],
)
def test_batches_that_do_not_fit_are_refused(
    data: Data, change: dict[str, int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        DeepV1Learner("standard", replace(TINY, **change), data.dataset.classes, 0).prepare(
            ["a"] * len(data.train)
        )


def test_a_batch_that_is_too_large_is_the_train_split(data: Data) -> None:
    learner = DeepV1Learner("standard", replace(TINY, batch_size=4096), data.dataset.classes, 0)
    learner.prepare(["a"] * len(data.train))
    assert learner.settings.batch_size == 42
    rows: list[EpochMetrics] = []
    learner.fit(data.train, data.valid, lambda epoch, row: rows.append(row))
    assert rows


def test_float16_on_a_cpu_is_refused(data: Data) -> None:
    with pytest.raises(UserError, match="float16 is not supported on CPUs"):
        DeepV1Learner(
            "standard", replace(TINY, precision="float16"), data.dataset.classes, 0
        ).prepare(["a"] * len(data.train))
