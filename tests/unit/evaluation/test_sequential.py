from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import binom

from eyevsai.core.errors import UserError
from eyevsai.evaluation.sequential import (
    Evidence,
    balance_evidence,
    limit_evidence,
    log_threshold,
    paired_evidence,
    ramp_evidence,
    risk_detector,
    risk_evidence,
    split_evidence,
)

SHARES = st.sampled_from([0.01, 0.05, 0.25, 0.5, 0.75])


def integrate_mixture(
    hits: int, total: int, share: float, prior: tuple[float, float], low: float
) -> float:
    """Return log of the mixture of likelihood ratios by numerical integration over (low, 1)."""
    a, b = prior

    def log_density(p):  # type: ignore[no-untyped-def]
        return (a - 1) * np.log(p) + (b - 1) * np.log1p(-p)

    def log_ratio(p):  # type: ignore[no-untyped-def]
        return hits * np.log(p / share) + (total - hits) * (np.log1p(-p) - np.log1p(-share))

    grid = np.linspace(low, 1, 100_001)[1:-1]
    values = log_ratio(grid) + log_density(grid)
    peak, top = grid[values.argmax()], values.max()
    near = sorted({low + width for width in (1e-6, 1e-4, 1e-2)} | {peak})
    mass = quad(
        lambda p: np.exp(log_ratio(p) + log_density(p) - top), low, 1, points=near, limit=400
    )[0]
    return float(top + np.log(mass) - np.log(quad(lambda p: np.exp(log_density(p)), low, 1)[0]))


@pytest.mark.parametrize(
    ("candidate", "events", "share"),
    [
        (0, 0, 0.05),
        (2, 2, 0.05),
        (10, 40, 0.25),
        (7, 200, 0.01),
        (700, 2_000, 0.5),  # the tail of the prior is 1e-43
        (0, 3_000, 0.5),  # and 1e-900, below the smallest float64
        (3, 100_000, 0.3),
        (510_000, 1_000_000, 0.5),
    ],
)
def test_split_evidence_equals_numerical_integration(
    candidate: int, events: int, share: float
) -> None:
    expected = integrate_mixture(candidate, events, share, (0.5, 1.0), share)
    assert split_evidence(candidate, events, share) == pytest.approx(expected, rel=1e-7, abs=1e-9)


def test_other_evidence_of_counts_equals_numerical_integration() -> None:
    assert paired_evidence(17, 3) == pytest.approx(
        integrate_mixture(17, 20, 0.5, (0.5, 0.5), 0.5), rel=1e-6
    )
    assert limit_evidence(2, 900, 0.01) == pytest.approx(
        integrate_mixture(898, 900, 0.99, (1.0, 0.1), 0.99), rel=1e-4
    )
    assert balance_evidence(80, 1_000, 0.05) == pytest.approx(
        integrate_mixture(80, 1_000, 0.05, (5.0, 95.0), 0.0), rel=1e-6
    )


def test_evidence_of_one_event_is_that_of_the_formula() -> None:
    # prior density p^(-1/2) / (2 (1 - sqrt(s))): E = (1 - s^(3/2)) / (3 s (1 - sqrt(s)))
    share = 0.05
    expected = (1 - share**1.5) / (3 * share * (1 - share**0.5))
    assert math.exp(split_evidence(1, 1, share)) == pytest.approx(expected, rel=1e-12)


def test_a_limit_is_proved_by_479_clean_answers() -> None:
    evidence = limit_evidence(0, np.array([478, 479]), 0.01)
    assert evidence[0] < log_threshold(0.01) <= evidence[1]


@given(candidate=st.integers(0, 500), others=st.integers(0, 5_000), share=SHARES)
def test_split_evidence_is_a_martingale_of_equal_models(
    candidate: int, others: int, share: float
) -> None:
    events = candidate + others
    now = split_evidence(candidate, events, share)
    by_candidate = split_evidence(candidate + 1, events + 1, share)
    by_current = split_evidence(candidate, events + 1, share)
    expected = share * np.exp(by_candidate - now) + (1 - share) * np.exp(by_current - now)
    assert expected == pytest.approx(1.0, rel=1e-8)


@given(
    candidate=st.integers(0, 500),
    others=st.integers(0, 5_000),
    share=SHARES,
    better=st.floats(0.0, 1.0),
)
def test_split_evidence_does_not_grow_on_average_if_the_candidate_is_better(
    candidate: int, others: int, share: float, better: float
) -> None:
    events = candidate + others
    now = split_evidence(candidate, events, share)
    chance = share * better
    expected = chance * np.exp(split_evidence(candidate + 1, events + 1, share) - now) + (
        1 - chance
    ) * np.exp(split_evidence(candidate, events + 1, share) - now)
    assert expected <= 1.0 + 1e-8


@pytest.mark.parametrize("events", [1, 20, 300])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_expected_evidence_of_equal_models_is_one(events: int, share: float) -> None:
    counts = np.arange(events + 1)
    log_chances = binom.logpmf(counts, events, share)
    # of `limit_evidence`, the rate equals the limit
    for function in (split_evidence, balance_evidence, limit_evidence):
        expected = logsumexp(log_chances + function(counts, events, share))
        assert expected == pytest.approx(0.0, abs=1e-8)


@given(events=st.integers(1, 3_000), share=SHARES)
def test_evidence_grows_with_the_events_of_the_candidate(events: int, share: float) -> None:
    counts = np.arange(events + 1)
    assert (np.diff(split_evidence(counts, events, share)) > 0).all()
    assert (np.diff(limit_evidence(counts, events, share)) < 0).all()


def test_a_better_candidate_does_not_hide_later_failures() -> None:
    # E falls like 1 / events, not exponentially
    assert split_evidence(0, 10_000, 0.25) > -math.log(1e5)
    assert ramp_evidence(np.array([0, 60]), np.array([10_000, 60]), np.array([0.25, 0.5])) > 25


def test_steps_of_a_ramp_are_multiplied_and_not_pooled() -> None:
    # equal models, 10,000 requests in each step
    candidate, events = np.array([2, 50]), np.array([160, 100])
    share = np.array([0.0125, 0.5])
    steps = ramp_evidence(candidate, events, share)
    assert steps == pytest.approx(
        float(split_evidence(2, 160, 0.0125)) + float(split_evidence(50, 100, 0.5))
    )
    assert steps < 0
    # a common rate that rises with the share looks in pooled counts like a worse candidate
    rising_rate = ramp_evidence(np.array([0, 50]), np.array([4, 100]), share)
    assert split_evidence(50, 104, 0.25) > log_threshold(0.01) > 0 > rising_rate
    assert ramp_evidence(candidate[::-1], events[::-1], share[::-1]) == pytest.approx(float(steps))


def test_ramps_without_steps_have_no_evidence() -> None:
    empty = np.array([], dtype=np.int64)
    assert ramp_evidence(empty, empty, empty.astype(np.float64)) == 0.0


def test_risk_evidence_equals_the_sum_of_all_bets() -> None:
    losses, limit = np.array([1, 0, 0.5, 1, 0]), 0.12
    odds = np.geomspace(1.2, 10, 10) * limit / (1 - limit)
    risks = odds / (1 + odds)
    weights = [0.5 / math.log(t + math.e - 1) - 0.5 / math.log(t + math.e) for t in range(1, 6)]
    weights[0] += 0.5
    for end in range(1, 6):
        value = detector = 0.0
        for risk in risks:
            # p / m for a wrong answer, (1 - p) / (1 - m) for a correct one
            steps = losses * risk / limit + (1 - losses) * (1 - risk) / (1 - limit)
            for start in range(end):
                product = float(np.prod(steps[start:end])) / len(risks)
                value += weights[start] * product
                detector += product
        value += 1 - sum(weights[:end])
        assert risk_evidence(losses, limit)[end - 1] == pytest.approx(math.log(value))
        assert risk_detector(losses, limit)[end - 1] == pytest.approx(math.log(detector))


@pytest.mark.parametrize("limit", [0.02, 0.12, 0.5, 0.9])
def test_expected_risk_evidence_at_the_limit_is_one(limit: float) -> None:
    paths = np.array(list(itertools.product([0, 1], repeat=10)))
    chances = np.where(paths == 1, limit, 1 - limit).prod(axis=1)
    evidence = np.exp(risk_evidence(paths, limit))
    detector = np.exp(risk_detector(paths, limit))
    for labels in range(10):
        assert chances @ evidence[:, labels] == pytest.approx(1.0)
        assert chances @ detector[:, labels] == pytest.approx(labels + 1)


@given(
    losses=st.lists(st.floats(0, 1), min_size=1, max_size=60),
    place=st.integers(0, 59),
    limit=st.floats(0.01, 0.99),
)
def test_risk_evidence_grows_with_each_loss(losses: list[float], place: int, limit: float) -> None:
    place %= len(losses)
    worse = [*losses[:place], 1.0, *losses[place + 1 :]]
    assert (risk_evidence(worse, limit) >= risk_evidence(losses, limit) - 1e-9).all()
    assert (risk_detector(worse, limit) >= risk_detector(losses, limit) - 1e-9).all()


def test_risk_that_rises_after_a_long_time_is_found_soon() -> None:
    random = np.random.default_rng(0)
    good, bad = random.random(20_000) < 0.05, random.random(600) < 0.4
    losses = np.concatenate([good, bad]).astype(np.float64)
    evidence = risk_evidence(losses, 0.12)
    assert evidence[:20_000].max() < log_threshold(0.01)
    assert (evidence >= log_threshold(0.01)).argmax() < 20_000 + 150
    assert (risk_detector(losses, 0.12) >= math.log(1e4)).argmax() < 20_000 + 150


def test_false_alarms_with_continuous_looking_are_within_alpha() -> None:
    random = np.random.default_rng(0)
    # the common rate rises during the ramp
    alarms = 0
    for _ in range(300):
        total, finished = 0.0, False
        for share, rate in ((0.01, 0.01), (0.05, 0.02), (0.25, 0.04), (0.5, 0.1)):
            events = np.arange(1, random.binomial(2_000, rate) + 2)
            candidate = (random.random(len(events)) < share).cumsum()
            path = total + split_evidence(candidate, events, share)
            finished |= bool((path >= log_threshold(0.05)).any())
            total = float(path[-1])
        alarms += finished
    assert alarms <= 0.05 * 300
    losses = random.random((300, 2_000)) < 0.12
    assert (risk_evidence(losses, 0.12).max(axis=1) >= log_threshold(0.05)).mean() <= 0.05


def chance_of_alarm(evidence: Callable[..., Evidence], chance: float, events: int) -> float:
    """Return the exact probability that E of the count of hits exceeds 20 within `events`."""
    counts = np.arange(events + 1)
    running, alarmed = (counts == 0).astype(np.float64), 0.0
    for total in range(1, events + 1):
        hits = np.concatenate([[0.0], running[:-1]]) * chance
        running = running * (1 - chance) + hits
        is_alarm = evidence(np.minimum(counts, total), total) >= math.log(20)
        alarmed += float(running[is_alarm].sum())
        running[is_alarm] = 0.0
    return alarmed


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_the_exact_probability_of_a_false_alarm_is_within_alpha(share: float) -> None:
    for evidence in (split_evidence, balance_evidence):
        chance = chance_of_alarm(partial(evidence, share=share), share, 400)
        assert 0.005 < chance <= 0.05
    chance = chance_of_alarm(partial(limit_evidence, limit=share), share, 400)
    assert 0.005 < chance <= 0.05
    # a candidate that is better, or a rate above the limit
    assert chance_of_alarm(partial(split_evidence, share=share), 0.9 * share, 400) < 0.04
    assert chance_of_alarm(partial(limit_evidence, limit=share), 1.1 * share, 400) < 0.04


def test_many_labels_stay_finite() -> None:
    losses = (np.arange(200_000) % 10 == 0).astype(np.float64)
    for limit in (0.001, 0.5, 0.999):
        assert np.isfinite(risk_evidence(losses, limit)).all()
        assert np.isfinite(risk_detector(losses, limit)).all()
    assert np.isfinite(split_evidence(np.array([0, 10**7]), 10**7, 0.05)).all()


def test_thresholds_share_alpha_among_tests() -> None:
    assert log_threshold(0.01) == pytest.approx(math.log(100))
    assert log_threshold(0.01, tests=3) == pytest.approx(math.log(300))


def test_arguments_out_of_range_are_rejected() -> None:
    with pytest.raises(UserError, match="share is 1"):
        split_evidence(1, 2, 1.0)
    with pytest.raises(UserError, match="limit is 0"):
        limit_evidence(1, 2, 0.0)
    with pytest.raises(UserError, match="limit is nan"):
        risk_evidence([0, 1], math.nan)
    with pytest.raises(UserError, match="A loss is nan"):
        risk_evidence([0, math.nan], 0.1)
    with pytest.raises(UserError, match="A loss is 2"):
        risk_detector([0, 2], 0.1)
    with pytest.raises(UserError, match="false alarm rate is 1"):
        log_threshold(1.0)
    with pytest.raises(ValueError, match="no counts"):
        split_evidence(3, 2, 0.5)
    with pytest.raises(ValueError, match="no counts"):
        paired_evidence(np.array([1, -1]), 5)
