"""Always-valid tests (e-processes) of a rollout: split, shadow, risk, and an absolute limit.

An e-process E is nonnegative, and its expectation is at most 1 under the null hypothesis at any
time at which one stops to look. By Ville's inequality it ever exceeds 1 / alpha with probability
alpha at most, so that evidence may be looked at after each event. All functions return log E,
natural, as float64; an alarm is log E >= `log_threshold(alpha)`.

Tests of counts are mixtures over alternatives (Robbins 1970). Let k of n events fall on one side,
with probability s under the null hypothesis. With the prior density f of the probability p,

    E(k, n) = integral of (p / s)^k ((1 - p) / (1 - s))^(n - k) f(p) dp,

which for a Beta(a, b) prior restricted to p > s is, with the beta function B and the regularised
upper tail Q of its integral,

    E(k, n) = B(a + k, b + n - k) Q(a + k, b + n - k; s)
              / (B(a, b) Q(a, b; s)) / (s^k (1 - s)^(n - k)).

The restricted prior also covers the null hypothesis "at most s". E depends on counts only: not on
the order of events, nor on how often one has looked.

References: Howard, Ramdas, McAuliffe, Sekhon 2021, "Time-uniform, nonparametric, nonasymptotic
confidence sequences"; Lindon, Malek 2022, "Anytime-valid inference for multinomial count data";
Podkopaev, Ramdas 2021, "Tracking the risk of a deployed model and detecting harmful distribution
shifts"; Waudby-Smith, Ramdas 2023, "Estimating means of bounded random variables by betting"; Shin,
Ramdas, Rinaldo 2022, "E-detectors: a nonparametric framework for sequential change detection".
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.evaluation.beta_tail import log_beta_tail

Evidence = npt.NDArray[np.float64]  # log E
# integers or integer arrays, which are broadcast against each other
Counts: TypeAlias = "int | npt.NDArray[np.integer]"
# numbers or arrays in (0, 1)
Shares: TypeAlias = "float | npt.NDArray[np.float64]"

# Priors (a, b), chosen by simulation (`python -m benchmarks drift`). That of a split favours
# ratios of 2 to 10 at shares of 1 to 5 %; that of pairs favours large differences, since only those
# are found with the labels of a shadow; that of a limit favours rates near 0.
_SPLIT_PRIOR = (0.5, 1.0)
_PAIRED_PRIOR = (0.5, 0.5)
_LIMIT_PRIOR = (1.0, 0.1)
# a Beta(100 s, 100 (1 - s)) prior: deviations of a few points from the share s
_BALANCE_CONCENTRATION = 100.0
# alternatives of `risk_evidence`: odds of the risk, as a multiple of the odds at the limit
_RISK_ODDS = np.geomspace(1.2, 10.0, 10)
_RESTART_SHARE = 0.5  # of the initial capital that is kept for bets that start later


def log_threshold(alpha: float, tests: int = 1) -> float:
    """Return the log E of an alarm, log(tests / alpha).

    Args:
        alpha: probability of a false alarm of all tests together, in (0, 1).
        tests: number of e-processes of which each can raise the alarm (Bonferroni).
    """
    if not 0 < alpha < 1:
        raise UserError(f"The false alarm rate is {alpha}. Use a number above 0 and below 1.")
    return math.log(tests / alpha)


def split_evidence(candidate: Counts, events: Counts, share: Shares) -> Evidence:
    """Return the evidence that events are more frequent in the candidate than in the current model.

    Requests are split at random. If an event (a failure, a slow or wrong answer) has the same rate
    in both models, each event is one of the candidate with probability `share`, however this rate
    changes with time (Lindon, Malek 2022). The null hypothesis is that the candidate's rate is at
    most that of the current model.

    Args:
        candidate: events of the candidate.
        events: events of both models.
        share: share of requests that the candidate answered, constant while these were counted. If
            it changed, use `ramp_evidence`.

    Returns:
        log E, in the shape of the arguments.
    """
    return _tail_mixture(candidate, events, _check_share(share, "share"), _SPLIT_PRIOR)


def ramp_evidence(candidate: Counts, events: Counts, share: Shares) -> Evidence:
    """Return the evidence of `split_evidence` over the steps of a ramp, each with its own share.

    The e-processes of the steps are multiplied. Counts of steps with different shares must not be
    added: if the common rate moves meanwhile, the sums differ between equal models (Simpson's
    paradox).

    Args:
        candidate: ...,S events of the candidate in each step.
        events: ...,S events of both models in each step.
        share: ...,S share of the candidate in each step.

    Returns:
        log E, of shape ...; 0 without steps.
    """
    evidence: Evidence = np.asarray(split_evidence(candidate, events, share).sum(axis=-1))
    return evidence


def paired_evidence(only_candidate: Counts, only_current: Counts) -> Evidence:
    """Return the evidence that the candidate is wrong more often, from answers to the same images.

    This is McNemar's test as an e-process. Under the null hypothesis, an image that only one model
    classifies correctly is at most as likely one of the candidate's mistakes as one of the current
    model's. Images that both classify correctly, or neither, do not count.

    Args:
        only_candidate: images that only the candidate classified wrongly.
        only_current: images that only the current model classified wrongly.

    Returns:
        log E, in the shape of the arguments. Exchange the arguments for the opposite hypothesis.
    """
    events = np.add(only_candidate, only_current)
    return _tail_mixture(only_candidate, events, 0.5, _PAIRED_PRIOR)


def limit_evidence(events: Counts, total: Counts, limit: Shares) -> Evidence:
    """Return the evidence that a rate is below an absolute limit.

    The null hypothesis is that the rate is `limit` or more. Without an event, a limit of 1 % is
    proved at alpha 0.01 after 479 answers; 459 is the least possible number.

    Args:
        events: number of events, such as failures.
        total: number of answers.
        limit: rate in (0, 1).

    Returns:
        log E, in the shape of the arguments.
    """
    # the mirrored test: answers without an event are more frequent than 1 - limit
    kept = 1.0 - _check_share(limit, "limit")
    return _tail_mixture(np.subtract(total, events), total, kept, _LIMIT_PRIOR)


def balance_evidence(candidate: Counts, requests: Counts, share: Shares) -> Evidence:
    """Return the evidence that requests are not split as intended (sample-ratio mismatch).

    The test is two-sided. If it alarms, no other comparison of the split is valid.

    Args:
        candidate: requests that the candidate answered.
        requests: requests of both models.
        share: intended share of the candidate, in (0, 1).

    Returns:
        log E, in the shape of the arguments.
    """
    from scipy.special import betaln

    hits, misses = _check_counts(candidate, requests)
    share = _check_share(share, "share")
    a, b = _BALANCE_CONCENTRATION * share, _BALANCE_CONCENTRATION * (1.0 - share)
    evidence: Evidence = (
        betaln(a + hits, b + misses)
        - betaln(a, b)
        - hits * np.log(share)
        - misses * np.log1p(-share)
    )
    return evidence


def risk_evidence(losses: npt.ArrayLike, limit: float) -> Evidence:
    """Return the evidence, after each label, that the risk of a model exceeds or exceeded a limit.

    The null hypothesis is that the expected loss of each answer, given those before, is at most
    `limit`. A bet on a higher risk multiplies its stake by 1 + q (loss - limit) with each label
    (Waudby-Smith, Ramdas 2023; Podkopaev, Ramdas 2021). The capital is divided among ten values of
    q, those that are optimal for risks with 1.2 to 10 times the odds of the limit. Half of it is
    staked at the first label, and parts that add up to the rest are staked at later ones: a bet
    that starts late has not lost during the time in which the model was good, and alarms sooner
    after a change. E is the sum of all stakes, and of what is not yet staked. It exceeds 1 / alpha
    with probability alpha at most, in any number of labels.

    Args:
        losses: ...,T losses in [0, 1] in the order of the labels; 1 is a wrong answer.
        limit: largest acceptable expected loss, in (0, 1).

    Returns:
        log E after each label, ...,T.
    """
    losses = _check_losses(losses)
    counts = np.arange(1, losses.shape[-1] + 1, dtype=np.float64)
    # weights of label t: 1 / log(t + e - 1) - 1 / log(t + e), whose sum from t to infinity is
    # 1 / log(t + e - 1); about 1 / (t log(t)^2), since the time of a change is unknown
    before, after = np.log(counts + math.e - 1), np.log(counts + math.e)
    weights = _RESTART_SHARE * np.log1p(1 / (counts + math.e - 1)) / (before * after)
    weights[:1] += 1 - _RESTART_SHARE
    evidence: Evidence = np.logaddexp(
        _sum_of_bets(losses, limit, np.log(weights)), np.log(_RESTART_SHARE / after)
    )
    return evidence


def risk_detector(losses: npt.ArrayLike, limit: float) -> Evidence:
    """Return the e-detector, after each label, of a risk that rises above a limit.

    It is the sum of e-processes of which one starts at each label (Shin, Ramdas, Rinaldo 2022;
    Shiryaev-Roberts), with the bets of `risk_evidence`. While the null hypothesis of
    `risk_evidence` holds, its expectation is at most the number of labels. With an alarm at the
    value A, the expected number of labels until a false alarm is A or more, and the probability of
    one within T labels is T / A at most. It detects a change at any time equally fast, but its
    false alarms are certain in the long run; those of `risk_evidence` are not.

    Args:
        losses: ...,T losses in [0, 1] in the order of the labels.
        limit: largest acceptable expected loss, in (0, 1).

    Returns:
        Logarithm of the e-detector after each label, ...,T. Compare it with log A.
    """
    losses = _check_losses(losses)
    return _sum_of_bets(losses, limit, np.zeros(losses.shape[-1]))


def _sum_of_bets(
    losses: npt.NDArray[np.float64], limit: float, log_stakes: npt.NDArray[np.float64]
) -> Evidence:
    """Return the logarithm of the value of all bets after each label.

    A bet that starts at label j with the stake w_j is worth w_j L_j ... L_t after label t, where
    L_i = 1 + q (loss_i - limit). With the sums S_t of log L up to t, all bets are worth
    exp(S_t) sum_(j <= t) w_j exp(-S_(j-1)).

    Args:
        losses: ...,T.
        limit: largest acceptable expected loss.
        log_stakes: T logarithms of w.
    """
    _check_share(limit, "limit")
    odds = _RISK_ODDS * limit / (1 - limit)
    total = np.full(losses.shape, -np.inf)
    # one alternative at a time: memory is that of a few arrays of T
    for risk in odds / (1 + odds):
        factor = (risk - limit) / (limit * (1 - limit))
        steps = np.log1p(factor * (losses - limit))
        sums = steps.cumsum(axis=-1)
        bets = np.logaddexp.accumulate(log_stakes - (sums - steps), axis=-1)
        np.logaddexp(total, sums + bets, out=total)
    return total - math.log(len(odds))


def _tail_mixture(
    hits: Counts, total: Counts, share: Shares, prior: tuple[float, float]
) -> Evidence:
    """Return log E of the module's docstring, with a Beta prior restricted to p > share."""
    successes, failures = _check_counts(hits, total)
    a, b = prior
    evidence: Evidence = (
        log_beta_tail(a + successes, b + failures, share)
        - log_beta_tail(a, b, share)
        - successes * np.log(share)
        - failures * np.log1p(-np.asarray(share))
    )
    return evidence


def _check_counts(
    hits: Counts, total: Counts
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the counts and the rest of the total, as float64; raise ValueError if negative."""
    counts = np.asarray(hits, dtype=np.float64)
    rest = np.asarray(total, dtype=np.float64) - counts
    if not ((counts >= 0).all() and (rest >= 0).all()):
        raise ValueError(f"{hits} of {total} are no counts")
    return counts, rest


def _check_share(share: Shares, name: str) -> npt.NDArray[np.float64]:
    """Return a share as float64; raise UserError unless it is in (0, 1)."""
    values = np.asarray(share, dtype=np.float64)
    if not ((values > 0) & (values < 1)).all():
        raise UserError(f"The {name} is {share}. Use a number above 0 and below 1.")
    return values


def _check_losses(losses: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return losses as float64; raise UserError if one is not in [0, 1]."""
    values = np.asarray(losses, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        wrong = values[~((values >= 0) & (values <= 1))].flat[0]
        raise UserError(f"A loss is {wrong}. Losses must be numbers from 0 to 1.")
    return values
