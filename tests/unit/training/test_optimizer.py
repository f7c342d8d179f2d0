from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from eyevsai.training.loss import balanced_weights, micro_batch_loss
from eyevsai.training.lr_schedule import LRSchedule
from eyevsai.training.muon import COEFFICIENTS, NUM_ITERATIONS, Muon, orthogonalize
from eyevsai.training.optimizer import build_optimizer
from eyevsai.training.settings import NetworkSettings


def plan(settings: NetworkSettings) -> LRSchedule:
    return LRSchedule(settings, settings.lr, settings.epochs)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "muon"])
def test_norms_and_biases_are_never_decayed(name: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    optimizer = build_optimizer([network], NetworkSettings(optimizer=name, weight_decay=0.5))
    decayed = {
        weight
        for group in optimizer.param_groups
        if group["weight_decay"]
        for weight in group["params"]
    }
    assert decayed == {network[0].weight, network[3].weight}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(
        list(network.parameters())
    )


def test_sgd_is_nesterov() -> None:
    optimizer = build_optimizer([nn.Linear(2, 2)], NetworkSettings(optimizer="sgd", momentum=0.8))
    assert optimizer.defaults["nesterov"]
    assert optimizer.defaults["momentum"] == 0.8


def test_warm_up_then_cosine() -> None:
    settings = NetworkSettings(lr=0.1, epochs=10, warmup_epochs=2, min_lr_ratio=0.01)
    schedule = plan(settings)
    rates = [schedule.lr_at(step / 10) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.005)
    assert all(before < after for before, after in pairwise(rates[:20]))
    assert all(before >= after for before, after in pairwise(rates[19:]))
    assert max(rates) == pytest.approx(0.1)
    assert rates[59] == pytest.approx(0.05)
    assert rates[-1] == pytest.approx(0.001)


def test_cosine_is_torchs() -> None:
    settings = NetworkSettings(lr=0.1, epochs=10, warmup_epochs=0, min_lr_ratio=0)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    for epoch in range(10):
        assert plan(settings).lr_at(epoch) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_step_and_constant() -> None:
    step = plan(
        NetworkSettings(lr=0.1, schedule="step", decay_epochs=3, decay_rate=0.5, warmup_epochs=0)
    )
    assert [step.lr_at(time) for time in (0, 2.9, 3, 6)] == pytest.approx([0.1, 0.1, 0.05, 0.025])
    constant = plan(NetworkSettings(lr=0.1, schedule="constant", warmup_epochs=0))
    assert constant.lr_at(29) == 0.1


def test_plateau_drops_when_the_loss_no_longer_falls_and_resumes() -> None:
    settings = NetworkSettings(
        lr=0.1, schedule="plateau", plateau_patience=2, decay_rate=0.1, warmup_epochs=0
    )
    schedule = plan(settings)
    for loss in (1.0, 0.9, 0.95, 0.91):
        schedule.end_epoch(loss)
    assert schedule.lr_at(4) == 0.1
    resumed = plan(settings)
    resumed.load_state_dict(schedule.state_dict())
    for each in (schedule, resumed):
        each.end_epoch(0.92)
        assert each.lr_at(5) == pytest.approx(0.01)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_parts_of_a_batch_add_up_to_torchs_loss(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 3, generator=generator)
    labels = torch.tensor([0] * 6 + [1] * 4 + [2] * 2)
    weights = balanced_weights(labels, 3) if weighted else None
    expected = nn.CrossEntropyLoss(weight=weights, label_smoothing=0.1)(logits, labels)
    parts = zip(logits.split(5), labels.split(5), strict=True)
    total = sum(micro_batch_loss(part, targets, labels, weights, 0.1) for part, targets in parts)
    torch.testing.assert_close(total, expected)


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    assert balanced_weights(labels, 3).tolist() == pytest.approx(expected.tolist())


def matrices(shape: tuple[int, ...], steps: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (16, 4, 3, 3)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    matrix = matrices(shape, 1)[0].flatten(1)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(matrix)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6
    assert values.max() < 1.3
    cosine = nn.functional.cosine_similarity(result.flatten(), (left @ right).flatten(), dim=0)
    assert cosine > 0.95


@pytest.mark.parametrize("shape", [(8, 100), (100, 8), (64, 576), (24, 30)])
def test_products_of_gram_matrices_equal_the_iteration_itself(shape: tuple[int, int]) -> None:
    matrix = matrices(shape, 1)[0] * torch.logspace(0, -4, shape[1])  # of very unequal columns
    a, b, c = COEFFICIENTS
    expected = matrix.double() / matrix.double().norm()
    for _ in range(NUM_ITERATIONS):
        gram = expected @ expected.T
        expected = a * expected + (b * gram + c * gram @ gram) @ expected
    torch.testing.assert_close(orthogonalize(matrix).double(), expected, atol=1e-3, rtol=1e-3)


def test_gram_matrices_are_not_multiplied_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = matrices((8, 100), 1)[0]
    exact = orthogonalize(matrix)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    expected = matrix / matrix.norm()
    a, b, c = COEFFICIENTS
    for _ in range(NUM_ITERATIONS):
        gram = expected @ expected.T
        factor = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        expected = torch.addmm(expected, factor, expected, beta=a)
    assert torch.equal(orthogonalize(matrix), expected)  # the iteration itself, to the bit
    assert not torch.equal(exact, expected)


def test_muon_takes_the_steps_of_torchs() -> None:
    weight, reference = nn.Parameter(torch.ones(8, 20)), nn.Parameter(torch.ones(8, 20))
    options: dict[str, float] = {"lr": 0.1, "momentum": 0.9}
    own = Muon([{"params": [weight], "orthogonalize": True, "weight_decay": 0.5}], **options)
    torchs = torch.optim.Muon(
        [reference], **options, weight_decay=0.5, adjust_lr_fn="match_rms_adamw"
    )
    for gradient in matrices((8, 20), 5):
        weight.grad, reference.grad = gradient.clone(), gradient.clone()
        own.step()
        torchs.step()
    torch.testing.assert_close(weight, reference, atol=0.02, rtol=0.02)  # torch's is bfloat16


def test_weights_without_matrices_take_the_steps_of_adamw() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    twin = copy.deepcopy(network)
    optimizers = [
        build_optimizer([each], NetworkSettings(optimizer=name, lr=0.1, weight_decay=0.1))
        for each, name in ((network, "muon"), (twin, "adamw"))
    ]
    for optimizer, each in zip(optimizers, (network, twin), strict=True):
        for seed in range(3):
            for weight in each.parameters():
                generator = torch.Generator().manual_seed(seed)
                weight.grad = torch.randn(weight.shape, generator=generator)
            optimizer.step()
    for own, other in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other)


def test_muon_orthogonalises_convolutions_of_hidden_layers_alone() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Linear(8, 2)
    )
    optimizer = build_optimizer([network], NetworkSettings(optimizer="muon"))
    (group,) = [each for each in optimizer.param_groups if each["orthogonalize"]]
    assert group["params"] == [network[1].weight]
    assert group["weight_decay"] == NetworkSettings().weight_decay
