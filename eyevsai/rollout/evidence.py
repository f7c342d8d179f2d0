"""Evidence for and against a candidate: e-processes of the counts of all steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eyevsai.rollout.counts import KINDS, WRONG, StepCounts

DISAGREEMENT = "disagreement"  # of shadow answers with those of production
ALARMS = (*KINDS, DISAGREEMENT)  # tests that roll back
BALANCE = "balance"  # test that requests are not split as intended
LIMIT, TOLERANCE = "limit", "tolerance"  # proofs that allow the next step
# stakes of the bets on non-inferiority, as parts of the largest possible one
_STAKES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
_MAX_DISAGREEMENT = 0.99


@dataclass(frozen=True)
class Evidence:
    """log E of all tests, and the numbers that they are based on."""

    log_e: Mapping[str, float]
    requests: int = 0  # of the rollout so far: the axis of the curves
    answers: int = 0  # of the candidate in the current step
    labels: int = 0  # labelled requests of the rollout

    def to_json(self) -> dict[str, Any]:
        """Return the evidence as JSON values."""
        return {
            "log_e": {name: round(value, 4) for name, value in self.log_e.items()},
            "requests": self.requests,
            "answers": self.answers,
            "labels": self.labels,
        }


NO_EVIDENCE = Evidence(dict.fromkeys((*ALARMS, BALANCE, LIMIT, TOLERANCE), 0.0))


def compute_evidence(
    steps: Sequence[StepCounts],
    *,
    failure_limit: float,
    tolerance: float,
    expected_disagreement: float,
) -> Evidence:
    """Return the evidence of all steps; the last one is the current step.

    Args:
        steps: counts of each step so far.
        failure_limit: rate of failures that the candidate has to stay below.
        tolerance: accepted loss of accuracy, and accepted additional share of disagreements.
        expected_disagreement: share of the test images that both versions label differently.
    """
    if not steps:
        return NO_EVIDENCE
    shadows, splits = [s for s in steps if not s.share], [s for s in steps if s.share]
    log_e = {kind: _paired(shadows, kind) + _split(splits, kind) for kind in KINDS}
    accepted = min(expected_disagreement + tolerance, _MAX_DISAGREEMENT)
    log_e[DISAGREEMENT] = _disagreement(shadows, accepted)
    log_e[BALANCE] = _balance(splits)
    log_e[LIMIT] = _limit(steps, failure_limit)
    log_e[TOLERANCE] = noninferiority_evidence(steps, tolerance)
    return Evidence(
        log_e,
        requests=sum(step.units.total if step.share else step.answers for step in steps),
        answers=steps[-1].answers,
        labels=sum(step.labelled.total + step.pairs[WRONG].total for step in steps),
    )


def _paired(shadows: Sequence[StepCounts], kind: str) -> float:
    from eyevsai.evaluation.sequential import paired_evidence

    pairs = [step.pairs[kind] for step in shadows]
    return sum(float(paired_evidence(each.candidate, each.production)) for each in pairs)


def _split(splits: Sequence[StepCounts], kind: str) -> float:
    from eyevsai.evaluation.sequential import split_evidence

    counts = [(step.events[kind], step.share) for step in splits]
    return sum(float(split_evidence(each.candidate, each.total, share)) for each, share in counts)


def _disagreement(shadows: Sequence[StepCounts], accepted: float) -> float:
    """Return the evidence that the rate of disagreements is above the accepted one."""
    from eyevsai.evaluation.sequential import split_evidence

    # the one-sided mixture of `split_evidence`, with a rate in place of a share
    return sum(
        float(split_evidence(step.disagreements, step.compared, accepted)) for step in shadows
    )


def _balance(splits: Sequence[StepCounts]) -> float:
    from eyevsai.evaluation.sequential import balance_evidence

    units = [(step.units, step.share) for step in splits]
    return sum(float(balance_evidence(each.candidate, each.total, share)) for each, share in units)


def _limit(steps: Sequence[StepCounts], limit: float) -> float:
    """Return the evidence that the failure rate of the candidate is below a limit.

    No share is involved, so that the answers of all steps count together.
    """
    from eyevsai.evaluation.sequential import limit_evidence

    failures, trials = sum(step.failures for step in steps), sum(step.trials for step in steps)
    return float(limit_evidence(failures, trials, limit))


def noninferiority_evidence(steps: Sequence[StepCounts], tolerance: float) -> float:
    """Return the evidence that the candidate loses less accuracy than a tolerance.

    Each labelled request gives a difference d of errors, whose expectation is that of the error
    rates: in shadow -1, 0 or 1; in a split, 1 / share for an error of the candidate and
    -1 / (1 - share) for one of production. Under the null hypothesis the expectation is `tolerance`
    or more, so that bets with the factor 1 + stake (tolerance - d) do not gain on average
    (Waudby-Smith, Ramdas 2023). The capital is divided among several stakes.

    Args:
        steps: counts of each step.
        tolerance: accepted loss, from 0 to 1.

    Returns:
        log E, natural.
    """
    rows = list(_differences(steps))
    values = [sum(_bet(*row, tolerance, part) for row in rows) for part in _STAKES]
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values) / len(values))


def _bet(count: int, difference: float, largest: float, tolerance: float, part: float) -> float:
    """Return the logarithm of the gain of `count` bets with the same outcome.

    Args:
        count: number of labelled requests.
        difference: difference of errors of each.
        largest: largest possible difference.
        tolerance: accepted loss.
        part: stake, as a part of the largest possible one.
    """
    stake = part / (largest - tolerance)
    return count * math.log1p(stake * (tolerance - difference))


def _differences(steps: Sequence[StepCounts]) -> Iterable[tuple[int, float, float]]:
    """Yield the number of labelled requests with each difference, and the largest possible one."""
    for step in steps:
        if step.share:
            wrong, labelled = step.events[WRONG], step.labelled.total
            largest, smallest = 1 / step.share, -1 / (1 - step.share)
            candidate, production = wrong.candidate, wrong.total - wrong.candidate
        else:
            pairs = step.pairs[WRONG]
            labelled, largest, smallest = pairs.total, 1.0, -1.0
            candidate, production = pairs.candidate, pairs.production
        yield candidate, largest, largest
        yield production, smallest, largest
        yield labelled - candidate - production, 0.0, largest
