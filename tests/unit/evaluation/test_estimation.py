from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core.errors import UserError
from eyevsai.evaluation.estimation import (
    AccuracyEstimate,
    Baseline,
    Estimate,
    estimate_accuracy,
    fit_baseline,
)
from eyevsai.evaluation.label_shift import estimate_label_shift

CLASSES = ("a", "b", "c", "d", "e")
Values = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]


def draw_calibrated(
    images: int, seed: int, shares: list[float] | None = None, scale: float = 2.0
) -> tuple[Values, Numbers]:
    """Return probabilities N,5 of a calibrated model, and labels.

    Features are drawn around the mean of each class with variance 1; the probabilities are the
    exact posteriors for equal shares.
    """
    random = np.random.default_rng(seed)
    labels = random.choice(len(CLASSES), images, p=shares)
    features = scale * np.eye(len(CLASSES))[labels] + random.normal(size=(images, len(CLASSES)))
    powers = np.exp(scale * features)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32), labels


def accuracy(probabilities: Values, labels: Numbers) -> float:
    return float((probabilities.argmax(axis=1) == labels).mean())


def test_estimates_on_the_same_distribution_are_within_their_spread() -> None:
    baseline = fit_baseline(*draw_calibrated(600, 0))
    deviations = []
    for seed in range(1, 200):
        probabilities, labels = draw_calibrated(200, seed)
        estimate = estimate_accuracy(baseline, probabilities)
        truth = accuracy(probabilities, labels)
        deviations.append(
            [(each.accuracy - truth) / each.spread for each in (estimate.confidence, estimate.atc)]
        )
    # one baseline for all windows: its own deviation is a common offset
    assert (np.abs(np.mean(deviations, axis=0)) < 1.5).all()
    assert (np.std(deviations, axis=0) < 1.1).all()
    assert (np.std(deviations, axis=0) > 0.6).all()


def test_estimates_follow_a_loss_of_accuracy() -> None:
    baseline = fit_baseline(*draw_calibrated(600, 0))
    # the posteriors of a model that knows the lower signal: it is calibrated there, too
    probabilities, labels = draw_calibrated(500, 1, scale=1.2)
    estimate = estimate_accuracy(baseline, probabilities)
    truth = accuracy(probabilities, labels)
    assert truth < baseline.accuracy - 0.15
    assert estimate.confidence.accuracy == pytest.approx(truth, abs=0.06)
    assert estimate.atc.accuracy < baseline.accuracy - 0.1
    assert estimate.images == 500


def test_atc_returns_the_accuracy_of_the_reference_itself() -> None:
    probabilities, labels = draw_calibrated(400, 0)
    baseline = fit_baseline(probabilities, labels)
    estimate = estimate_accuracy(baseline, probabilities)
    assert estimate.atc.accuracy == pytest.approx(accuracy(probabilities, labels))
    # the definition by Garg et al.: the share below the threshold is the error rate
    above = (probabilities.astype(np.float16).max(axis=1) >= baseline.threshold).mean()
    assert above == pytest.approx(baseline.accuracy, abs=2 / 400)
    assert baseline.offset == pytest.approx(baseline.accuracy - above)


@given(seed=st.integers(0, 10_000), images=st.integers(30, 80), correct=st.floats(0, 1))
def test_baseline_is_exact_with_ties_and_extreme_accuracies(
    seed: int, images: int, correct: float
) -> None:
    random = np.random.default_rng(seed)
    top = random.choice([0.5, 0.75, 1.0], images)
    probabilities = np.stack([top, 1 - top], axis=1)
    labels = (random.random(images) >= correct).astype(np.int64)
    baseline = fit_baseline(probabilities, labels)
    estimate = estimate_accuracy(baseline, probabilities)
    assert estimate.atc.accuracy == pytest.approx(accuracy(probabilities, labels))
    assert 0 <= estimate.confidence.accuracy <= 1


@pytest.mark.parametrize("right", [True, False])
def test_models_that_are_always_right_or_wrong_have_a_baseline(right: bool) -> None:
    probabilities, _ = draw_calibrated(50, 0)
    labels = probabilities.argmax(axis=1) if right else probabilities.argmin(axis=1)
    baseline = fit_baseline(probabilities, labels)
    assert baseline.accuracy == baseline.offset + float(right) == float(right)
    estimate = estimate_accuracy(baseline, probabilities)
    assert estimate.atc.accuracy == float(right)
    assert estimate.atc.spread > 0.02


def test_estimates_that_differ_are_uncertain() -> None:
    agreed = AccuracyEstimate(100, Estimate(0.9, 0.02), Estimate(0.86, 0.02))
    assert not agreed.is_uncertain
    assert AccuracyEstimate(100, Estimate(0.9, 0.02), Estimate(0.84, 0.02)).is_uncertain


def test_a_baseline_can_be_stored_as_json() -> None:
    baseline = fit_baseline(*draw_calibrated(100, 0))
    assert Baseline(**json.loads(json.dumps(asdict(baseline)))) == baseline


def test_bad_probabilities_are_rejected() -> None:
    probabilities, labels = draw_calibrated(60, 0)
    baseline = fit_baseline(probabilities, labels)
    with pytest.raises(UserError, match="The window has 20 images, too few"):
        estimate_accuracy(baseline, probabilities[:20])
    with pytest.raises(UserError, match="The reference has 20 images, too few"):
        fit_baseline(probabilities[:20], labels[:20])
    with pytest.raises(UserError, match="NaN"):
        estimate_accuracy(baseline, np.full_like(probabilities, np.nan))


def test_label_shift_is_estimated_within_its_errors() -> None:
    reference, labels = draw_calibrated(1_000, 0)
    shares = [0.5, 0.3, 0.2, 0.0, 0.0]
    window, _ = draw_calibrated(1_000, 1, shares)
    shift = estimate_label_shift(reference, labels, window, CLASSES)
    assert shift.shares.sum() == pytest.approx(1.0, abs=1e-4)
    assert (shift.shares >= 0).all()
    assert (np.abs(shift.shares - shares) < 3 * shift.errors).all()
    assert (shift.errors < 0.05).all()
    assert shift.distance == pytest.approx(0.4, abs=0.07)
    assert shift.distance > 3 * shift.distance_error
    assert shift.reference_shares == pytest.approx(np.bincount(labels) / 1_000)


def test_errors_of_label_shift_are_those_of_repetitions() -> None:
    shares = [0.3, 0.3, 0.2, 0.1, 0.1]  # all far from 0, where the constraint would not matter
    shifts = [
        estimate_label_shift(
            *draw_calibrated(400, seed), draw_calibrated(200, seed + 1_000, shares)[0], CLASSES
        )
        for seed in range(150)
    ]
    observed = np.std([shift.shares for shift in shifts], axis=0)
    expected = np.mean([shift.errors for shift in shifts], axis=0)
    assert (observed / expected < 1.15).all()
    assert (observed / expected > 0.75).all()


def test_no_label_shift_is_within_the_distance_expected_from_errors() -> None:
    shift = estimate_label_shift(*draw_calibrated(500, 0), draw_calibrated(200, 1)[0], CLASSES)
    assert shift.distance < 2.5 * shift.distance_error


def test_exact_confusions_are_inverted_exactly() -> None:
    # a perfect model: the shares of the window are those of its predictions
    labels = np.repeat(np.arange(5), 20)
    window = np.eye(5)[np.repeat([0, 1, 2], [60, 30, 10])]
    shift = estimate_label_shift(np.eye(5)[labels], labels, window, CLASSES)
    assert shift.shares == pytest.approx([0.6, 0.3, 0.1, 0, 0], abs=1e-6)
    assert shift.errors == pytest.approx(np.sqrt(np.array([0.24, 0.21, 0.09, 0, 0]) / 99), abs=1e-6)


def test_classes_without_reference_images_have_no_share() -> None:
    reference, labels = draw_calibrated(300, 0)
    kept = labels != 2
    shift = estimate_label_shift(reference[kept], labels[kept], draw_calibrated(200, 1)[0], CLASSES)
    assert np.isnan(shift.shares[2])
    assert np.isnan(shift.errors[2])
    assert np.isfinite(np.delete(shift.shares, 2)).all()
    assert np.isfinite(shift.distance)


def test_a_class_with_one_reference_image_has_a_large_error() -> None:
    reference, labels = draw_calibrated(300, 0)
    kept = (labels != 2) | (np.cumsum(labels == 2) == 1)
    shift = estimate_label_shift(reference[kept], labels[kept], draw_calibrated(200, 1)[0], CLASSES)
    assert shift.errors[2] > 0.5


def test_classes_that_the_model_cannot_distinguish_have_a_large_error() -> None:
    reference, labels = draw_calibrated(400, 0)
    window, _ = draw_calibrated(200, 1)
    for probabilities in (reference, window):
        probabilities[:, :2] = probabilities[:, :2].mean(axis=1, keepdims=True)
    labels[labels == 1] = 0
    labels[::2] = np.where(labels[::2] == 0, 1, labels[::2])
    shift = estimate_label_shift(reference, labels, window, CLASSES)
    assert (shift.errors[:2] > 3 * shift.errors[2:].max()).all()
