from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.evaluation.sequential import (
    limit_evidence,
    paired_evidence,
    ramp_evidence,
    split_evidence,
)
from eyevsai.rollout.counts import FAILED, SLOW, WRONG, LoggedAnswer, StepCounts, count_answers
from eyevsai.rollout.evidence import (
    BALANCE,
    DISAGREEMENT,
    LIMIT,
    TOLERANCE,
    Evidence,
    compute_evidence,
    noninferiority_evidence,
)

SHARES = {"run:0": 0.0, "run:1": 0.05, "run:2": 0.25}
SHADOW, SMALL, LARGE = SHARES


def answer(
    number: int, step: str = SMALL, arm: str = "production", **values: object
) -> LoggedAnswer:
    defaults = {"key": None, "status": "ok", "model_ms": 5.0, "queue_ms": 0.0, "label": "cat"}
    return LoggedAnswer(f"{number:06}", step, arm, **(defaults | values))  # type: ignore[arg-type]


def shadow(number: int, of: int, **values: object) -> LoggedAnswer:
    return answer(number, SHADOW, "shadow", shadow_of=f"{of:06}", **values)


def count(
    answers: Iterable[LoggedAnswer], labels: Mapping[str, str] | None = None
) -> dict[str, StepCounts]:
    counts = count_answers(answers, labels or {}, SHARES, slow_ms=20.0, late_ms=1_000.0)
    return dict(zip(SHARES, counts, strict=True))


def evidence_of(counts: Mapping[str, StepCounts], **values: float) -> Evidence:
    defaults = {"failure_limit": 0.01, "tolerance": 0.03, "expected_disagreement": 0.02}
    return compute_evidence(list(counts.values()), **(defaults | values))


def test_first_event_of_a_key_counts_once_in_the_rollout() -> None:
    failed = {"status": "failed", "label": None, "model_ms": None, "key": "k"}
    answers = [
        answer(1, SMALL, "candidate", **failed),
        answer(2, SMALL, "candidate", **failed),
        answer(3, LARGE, "candidate", **failed),
        answer(4, LARGE, "candidate", **(failed | {"key": "other"})),
    ]
    counts = count(answers)
    assert [counts[step].events[FAILED].total for step in (SMALL, LARGE)] == [1, 1]
    assert [counts[step].units.total for step in (SMALL, LARGE)] == [1, 1]
    assert [counts[step].answers for step in (SMALL, LARGE)] == [2, 2]
    assert [counts[step].trials for step in (SMALL, LARGE)] == [1, 2]


def test_requests_without_a_key_are_units_of_their_own() -> None:
    counts = count(answer(number, SMALL, status="failed", label=None) for number in range(5))
    assert counts[SMALL].events[FAILED].total == 5


def test_late_answers_are_slow_in_both_arms_and_never_failures() -> None:
    answers = [
        answer(1, arm="candidate", status="timeout", label=None, model_ms=None),
        answer(2, model_ms=21.0),
        answer(3, queue_ms=999.0),
        answer(4),
    ]
    step = count(answers)[SMALL]
    assert (step.events[SLOW].candidate, step.events[SLOW].total) == (1, 3)
    assert step.events[FAILED].total == 0
    assert step.failures == 1  # but an absolute limit counts them


def test_answers_outside_of_the_split_are_skipped() -> None:
    answers = [
        answer(1, "other:1", "candidate"),
        answer(2, SMALL, "named"),
        answer(3, SMALL, "shadow", shadow_of="000001"),
    ]
    step = count(answers)[SMALL]
    assert (step.answers, step.units.total) == (0, 0)


def test_shadow_is_compared_with_its_answer_whichever_the_log_has_first() -> None:
    answers = [
        shadow(1, of=2, label="dog"),
        answer(2, SHADOW),
        answer(3, SHADOW),
        shadow(4, of=3),
        shadow(5, of=99),  # its answer was dropped
    ]
    step = count(answers)[SHADOW]
    assert (step.answers, step.compared, step.disagreements) == (2, 2, 1)


def test_repeated_request_counts_with_its_first_shadow() -> None:
    answers = [answer(1, SHADOW), shadow(2, of=1, label="dog"), shadow(3, of=1)]
    step = count(answers, {"000001": "cat"})[SHADOW]
    assert (step.answers, step.compared, step.disagreements) == (1, 1, 1)
    assert step.pairs[WRONG].candidate == 1


def test_time_of_a_shadow_is_not_compared() -> None:
    """It computes on idle cores only: equal versions would differ on a busy machine."""
    rows = [(answer(2 * n, SHADOW), shadow(2 * n + 1, 2 * n, model_ms=500.0)) for n in range(50)]
    counts = count(each for pair in rows for each in pair)
    assert counts[SHADOW].pairs[FAILED].total == 50
    assert evidence_of({SHADOW: counts[SHADOW]}).log_e[SLOW] == 0


def test_labels_of_shadow_are_pairs() -> None:
    answers = [answer(1, SHADOW), shadow(2, of=1, label="dog"), answer(3, SHADOW), shadow(4, of=3)]
    labels = {"000001": "cat", "000003": "dog", "000002": "dog", "000077": "cat"}
    pairs = count(answers, labels)[SHADOW].pairs[WRONG]
    assert (pairs.total, pairs.candidate, pairs.production) == (2, 1, 0)


def test_first_label_of_a_key_counts() -> None:
    answers = [answer(number, SMALL, "candidate", key="k") for number in (1, 2)]
    step = count(answers, {"000002": "dog", "000001": "cat"})[SMALL]
    assert (step.labelled.total, step.events[WRONG].candidate) == (1, 1)


def test_evidence_is_that_of_the_e_processes_by_step() -> None:
    failed = {"status": "failed", "label": None}
    answers = [
        *(answer(number, SMALL, "candidate", **failed) for number in range(4)),
        *(answer(number, SMALL, **failed) for number in range(10, 12)),
        *(answer(number, LARGE, "candidate", **failed) for number in range(20, 23)),
        *(answer(number, LARGE) for number in range(30, 60)),
    ]
    evidence = evidence_of(count(answers))
    expected = ramp_evidence(np.array([4, 3]), np.array([6, 3]), np.array([0.05, 0.25]))
    assert evidence.log_e[FAILED] == pytest.approx(float(expected))
    pooled = float(split_evidence(7, 9, 7 / 39))
    assert evidence.log_e[FAILED] != pytest.approx(pooled)
    assert evidence.log_e[LIMIT] == pytest.approx(float(limit_evidence(7, 7, 0.01)))
    assert evidence.requests == 39


def test_no_step_gives_no_evidence() -> None:
    evidence = compute_evidence([], failure_limit=0.01, tolerance=0.03, expected_disagreement=0.0)
    assert set(evidence.log_e.values()) == {0.0}


def test_clean_answers_prove_the_limit() -> None:
    def proof(number: int) -> float:
        answers = (answer(each, SMALL, "candidate") for each in range(number))
        return evidence_of(count(answers)).log_e[LIMIT]

    assert proof(470) < math.log(100) <= proof(485)


def test_disagreement_beyond_the_accepted_one_is_found() -> None:
    def evidence(every: int) -> float:
        answers = []
        for number in range(0, 800, 2):
            label = "dog" if number % every == 0 else "cat"
            answers += [answer(number, SHADOW), shadow(number + 1, of=number, label=label)]
        return evidence_of(count(answers)).log_e[DISAGREEMENT]

    assert evidence(200) < math.log(300) < evidence(8)


def test_wrong_split_is_found() -> None:
    answers = [
        answer(number, LARGE, "candidate" if number % 2 else "production") for number in range(400)
    ]
    assert evidence_of(count(answers)).log_e[BALANCE] > math.log(100)


def test_paired_errors_are_mcnemar() -> None:
    answers, labels = [], {}
    for number in range(0, 40, 2):
        answers += [answer(number, SHADOW), shadow(number + 1, of=number, label="dog")]
        labels[f"{number:06}"] = "cat"
    evidence = evidence_of(count(answers, labels))
    assert evidence.log_e[WRONG] == pytest.approx(float(paired_evidence(20, 0)))
    assert evidence.labels == 20


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(SHARES)),
            st.sampled_from(["production", "candidate"]),
            st.sampled_from(["ok", "failed", "timeout"]),
            st.sampled_from([None, "a", "b", "c"]),
        ),
        max_size=40,
    ),
    st.randoms(use_true_random=False),
)
def test_counts_are_consistent(
    rows: list[tuple[str, str, str, str | None]], chance: random.Random
) -> None:
    answers = [
        answer(number, step, arm, status=status, key=key, label=None if status != "ok" else "cat")
        for number, (step, arm, status, key) in enumerate(rows)
    ]
    counts = count(answers)
    units = {each.key or each.id for each in answers if SHARES[each.step]}
    assert sum(step.units.total for step in counts.values()) == len(units)
    for kind in (FAILED, SLOW):
        assert sum(step.events[kind].total for step in counts.values()) <= len(units)
    # the order of requests without keys does not matter
    without_keys = [each._replace(key=None) for each in answers]
    shuffled = chance.sample(without_keys, len(without_keys))
    assert count(without_keys) == count(shuffled)
    assert all(math.isfinite(value) for value in evidence_of(counts).log_e.values())


def pairs_of(total: int, candidate: int, production: int) -> list[StepCounts]:
    step = StepCounts(0.0)
    step.pairs[WRONG].total = total
    step.pairs[WRONG].candidate, step.pairs[WRONG].production = candidate, production
    return [step]


def test_equal_versions_are_proved_not_to_be_worse() -> None:
    assert noninferiority_evidence(pairs_of(0, 0, 0), 0.03) == pytest.approx(0)
    assert noninferiority_evidence(pairs_of(500, 5, 5), 0.03) > math.log(100)
    assert noninferiority_evidence(pairs_of(400, 24, 4), 0.03) < 0


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_proof_of_the_tolerance_is_rarely_false(share: float) -> None:
    """Under the null hypothesis, E exceeds 20 with probability 1/20 at most, at any time."""
    chance, false_proofs, runs = np.random.default_rng(0), 0, 200
    for _ in range(runs):
        step, highest = StepCounts(share), 0.0
        for _ in range(40):
            for is_wrong, is_other_wrong, arm in chance.random((10, 3)):
                if share:
                    is_candidate = bool(arm < share)
                    step.labelled.add(is_candidate)
                    if is_wrong < (0.2 if is_candidate else 0.1):
                        step.events[WRONG].add(is_candidate)
                else:
                    step.pairs[WRONG].add(bool(is_wrong < 0.2), bool(is_other_wrong < 0.1))
            highest = max(highest, noninferiority_evidence([step], 0.1))
        false_proofs += highest >= math.log(20)
    assert false_proofs <= runs / 20


def test_labels_of_a_split_prove_the_tolerance_in_time() -> None:
    step = StepCounts(0.5)
    step.labelled.total, step.labelled.candidate = 4_000, 2_000
    step.events[WRONG].total, step.events[WRONG].candidate = 400, 200
    assert evidence_of({"run:1": step}, tolerance=0.05).log_e[TOLERANCE] > math.log(100)
