"""Windows, alerts and gauges of a live model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from eyevsai.evaluation.comparison import WindowComparer
from eyevsai.evaluation.reference import Reference, make_reference
from eyevsai.reports.prometheus_text import Gauge, format_gauges
from eyevsai.workflows.monitor.alerts import (
    ACCURACY,
    DETECTOR_LABELS,
    DRIFT,
    ERRORS,
    QUIET,
    RISK,
    SLOW,
    Limits,
    RiskResult,
    find_alerts,
)
from eyevsai.workflows.monitor.live_windows import (
    MAX_COMPARED,
    MAX_WINDOWS,
    AnswerColumns,
    LiveWindow,
    choose_size,
    measure_windows,
)
from eyevsai.workflows.monitor.measure import measure_risk

CLASSES = ("a", "b", "c")
LIMITS = Limits(risk=0.2, accuracy=0.75, failures=0.01, latency_ms=50.0, quiet_s=3600.0)
NO_RISK = RiskResult(0, 0, 0.2, 0.0, 0.0)


def draw(
    count: int, seed: int, sharpness: float = 4.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return probabilities, calibrated labels and statistics; lower sharpness is less certain."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(count, 3)) * sharpness
    rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    rows /= rows.sum(axis=1, keepdims=True)
    labels = (rows.cumsum(axis=1) > random.random((count, 1))).argmax(axis=1)
    return rows, labels, random.normal(size=(count, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def reference() -> Reference:
    rows, labels, statistics = draw(600, 0)
    return make_reference(
        CLASSES, rows, labels, np.arange(600), statistics, split="test", temperature=1.0
    )


@pytest.fixture(scope="module")
def comparer(reference: Reference) -> WindowComparer:
    return WindowComparer(reference)


def columns(
    count: int, seed: int, *, sharpness: float = 4.0, failed: int = 0, ms: float = 5.0
) -> AnswerColumns:
    rows, _, statistics = draw(count, seed, sharpness)
    is_ok = np.arange(count) >= failed
    rows[~is_ok] = np.nan
    at = np.arange(count, dtype=np.float64) + 1000 * seed
    return AnswerColumns(
        at, is_ok, np.full(count, ms, np.float32), rows.astype(np.float16), statistics
    )


def windows(
    parts: Sequence[AnswerColumns], size: int, comparer: WindowComparer
) -> list[LiveWindow]:
    return list(measure_windows(parts, size, comparer))


def test_windows_do_not_depend_on_the_parts(comparer: WindowComparer) -> None:
    stream = columns(1000, 1)
    whole = windows([stream], 200, comparer)
    assert [each.answers for each in whole] == [200] * 5
    cuts = [0, 30, 450, 451, 980, 1000]
    parts = [stream.slice(*pair) for pair in zip(cuts, cuts[1:], strict=False)]
    assert [each.to_json() for each in windows(parts, 200, comparer)] == [
        each.to_json() for each in whole
    ]


def test_rest_is_a_window_of_its_own(comparer: WindowComparer) -> None:
    *full, rest = windows([columns(410, 1)], 200, comparer)
    assert len(full) == 2
    assert (rest.answers, rest.comparison) == (10, None)
    assert windows([], 200, comparer) == []


def test_failed_answers_are_counted_and_not_compared(comparer: WindowComparer) -> None:
    no_classes = replace(
        columns(50, 1, failed=50), probabilities=np.empty((50, 0), dtype=np.float16)
    )
    (window,) = windows([no_classes, columns(150, 2)], 200, comparer)
    assert window.failed == 50
    assert window.comparison is not None
    assert window.comparison.drift.images == 150
    (all_failed,) = windows([no_classes], 200, comparer)
    assert all_failed.comparison is None
    assert all_failed.p99_ms is None


def test_many_answers_give_few_large_windows(comparer: WindowComparer) -> None:
    assert choose_size(199, 200) == 200
    assert math.ceil(10**6 / choose_size(10**6, 200)) <= MAX_WINDOWS
    (window,) = windows([columns(5000, 1)], 5000, comparer)
    assert window.comparison is not None
    assert window.comparison.drift.images == MAX_COMPARED


def names(found: list[LiveWindow], risk: RiskResult = NO_RISK, now: float = 0.0) -> set[str]:
    return {each.name for each in find_alerts(found, risk, LIMITS, now)}


def test_no_alert_on_the_same_distribution(comparer: WindowComparer) -> None:
    found = windows([columns(600, 3)], 200, comparer)
    assert names(found, now=found[-1].last_at) == set()


def test_each_rule(comparer: WindowComparer) -> None:
    good = windows([columns(600, 3)], 200, comparer)
    now = good[-1].last_at
    unsure = windows([columns(400, 4, sharpness=0.3)], 200, comparer)
    assert names([*good, unsure[0]], now=now) == set()  # one window can differ by chance
    assert names([*good, *unsure], now=now) == {DRIFT, ACCURACY}
    assert names([*unsure, *good], now=now) == set()  # it has passed
    failing = windows([columns(200, 5, failed=10)], 200, comparer)
    assert names([*good, *failing], now=now) == {ERRORS}
    slow = windows([columns(400, 6, ms=80.0)], 200, comparer)
    assert names([*good, *slow], now=now) == {SLOW}
    assert names(good, now=now + 3601) == {QUIET}
    assert names([], now=now) == {QUIET}
    risk = measure_risk([1] * 40, 0.2)
    assert names(good, risk, now) == {RISK}


def test_risk() -> None:
    random = np.random.default_rng(0)
    assert measure_risk([], 0.1).accuracy is None
    good = measure_risk((random.random(2000) < 0.08).astype(int).tolist(), 0.1)
    assert not good.is_exceeded
    late = [0] * 1500 + (random.random(400) < 0.3).astype(int).tolist()
    changed = measure_risk(late, 0.1)
    assert changed.is_exceeded  # by the e-detector, after a long good time
    assert changed.log_detector > math.log(DETECTOR_LABELS)


def test_text_format_of_gauges() -> None:
    gauges = [
        Gauge("a", {"model": 'x"\\\n'}, 1.0),
        Gauge("b", {"model": "y"}, -0.5),
        Gauge("a", {"model": "z"}, 2.0),
    ]
    assert format_gauges(gauges, {"a": "A.", "b": "B."}) == (
        "# HELP a A.\n# TYPE a gauge\n"
        'a{model="x\\"\\\\\\n"} 1.0\na{model="z"} 2.0\n'
        '# HELP b B.\n# TYPE b gauge\nb{model="y"} -0.5\n'
    )
