"""The solution of a linear head on frozen features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError, TerminationRequested
from eyevsai.training.linear_head import STRENGTHS, LinearHead, solve_linear_head
from eyevsai.training.process_group import SingleProcess


def draw(count: int, classes: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """Return features around a centre per class, in units that differ by feature, and labels."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, 20, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % classes
    features = centers[labels] + noise * torch.randn(count, 20, generator=generator)
    return features * torch.logspace(-2, 2, 20) + 5, labels


def solve(classes: int, noise: float = 1.0, *, is_balanced: bool = False) -> LinearHead:
    train, labels = draw(120, classes, noise, 1)
    valid, valid_labels = draw(60, classes, noise, 2)
    return solve_linear_head(
        ([train], labels), ([valid], valid_labels), CancellationToken(), is_balanced=is_balanced
    )


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_head_classifies_features_as_they_are(classes: int) -> None:
    head = solve(classes, noise=0.3)
    features, labels = draw(200, classes, 0.3, 3)
    logits = features @ head.weight.T + head.bias
    assert head.weight.shape == (classes, 20)
    assert (logits.argmax(1) == labels).float().mean() > 0.95


def test_the_solution_is_that_of_scikit_learn_on_standardised_features() -> None:
    head = solve(4)
    train, labels = draw(120, 4, 1.0, 1)
    mean, scale = train.mean(0), train.std(0)
    model = LogisticRegression(C=1 / (head.strength * 120), max_iter=10_000, tol=1e-8)
    model.fit(((train - mean) / scale).numpy().astype(np.float64), labels.numpy())
    expected = model.predict_proba(((train - mean) / scale).numpy())
    actual = (train @ head.weight.T + head.bias).softmax(1).numpy()
    np.testing.assert_allclose(actual, expected, atol=5e-3)


def test_noisy_features_are_regularised_more() -> None:
    assert solve(3, noise=3.0).strength > solve(3, noise=0.1).strength


def test_the_strength_has_the_lowest_loss_on_valid() -> None:
    head = solve(3, noise=2.0)
    train, labels = draw(120, 3, 2.0, 1)
    valid, valid_labels = draw(60, 3, 2.0, 2)
    mean, scale = train.mean(0), train.std(0)
    losses = {}
    for strength in STRENGTHS:
        model = LogisticRegression(C=1 / (strength * 120), max_iter=1000)
        model.fit(((train - mean) / scale).numpy(), labels.numpy())
        logits = torch.from_numpy(model.decision_function(((valid - mean) / scale).numpy()))
        losses[strength] = nn.functional.cross_entropy(logits, valid_labels).item()
    assert head.strength == min(losses, key=losses.__getitem__)


def test_a_request_to_stop_ends_the_search() -> None:
    token = CancellationToken()
    token.requested = TerminationRequested()
    features, labels = draw(30, 3, 1.0, 1)
    with pytest.raises(TerminationRequested):
        solve_linear_head(([features], labels), ([features], labels), token)


def test_features_that_are_not_finite_are_refused() -> None:
    features, labels = draw(30, 3, 1.0, 1)
    features[4, 2] = torch.inf
    with pytest.raises(JobError, match="NaN or infinite"):
        solve_linear_head(([features], labels), ([features], labels), CancellationToken())


def test_several_views_are_fitted_together() -> None:
    first, labels = draw(120, 3, 1.0, 1)
    second, _ = draw(120, 3, 1.0, 5)
    together = solve_linear_head(([first, second], labels), ([first], labels), CancellationToken())
    twice = solve_linear_head(
        ([torch.cat([first, second])], labels.repeat(2)), ([first], labels), CancellationToken()
    )
    torch.testing.assert_close(together.weight, twice.weight)


def test_a_late_search_ends_with_the_first_strength() -> None:
    features, labels = draw(120, 3, 0.1, 1)
    data = ([features], labels)
    assert solve_linear_head(data, data, CancellationToken()).strength < STRENGTHS[0]
    late = solve_linear_head(data, data, CancellationToken(), is_late=lambda: True)
    assert late.strength == STRENGTHS[0]


def test_all_ranks_try_the_strengths_of_rank_0() -> None:
    features, labels = draw(120, 3, 0.1, 1)
    data = ([features], labels)
    sent: list[list[float]] = []

    class First(SingleProcess):
        def broadcast_values(self, values: Sequence[float]) -> list[float]:
            sent.append(list(values))
            return sent[-1]

    class Other(SingleProcess):
        rank = 1

        def broadcast_values(self, values: Sequence[float]) -> list[float]:
            del values
            return sent.pop(0)

    late, token = iter([False, True]), CancellationToken()
    first = solve_linear_head(data, data, token, is_late=lambda: next(late), group=First())
    other = solve_linear_head(data, data, token, group=Other())
    assert other.strength == first.strength == STRENGTHS[1]
    assert not sent
