"""Simulated rollouts: false rollbacks of equal versions, and the time until a worse one is found.

Evidence is looked at after each event, at the threshold of a rollout: E >= 3 / alpha with alpha
0.01, since failures, slow and wrong answers share it.

The last figure is measured: the latency of production while a candidate gets a copy of each image.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from benchmarks.evidence import THRESHOLDS, Row, first_alarms, shadow, split
from benchmarks.rollout_shadow import measure_shadow

ROLLOUTS, REQUESTS = 400, 20_000
SHARES = (0.01, 0.05, 0.25, 0.5)  # steps of equal length
# rates of failed, slow and wrong answers of both versions at the start and at the end
RATES = {"failed": (0.02, 0.004), "slow": (0.01, 0.05), "wrong": (0.08, 0.2)}
FALSE_ROLLBACKS = 0.01
THRESHOLD = 300  # 3 / alpha
BROKEN_FAILURES = 5  # of the candidate until a server stops using it


@dataclass(frozen=True)
class Target:
    """Situation with a worse candidate, and the limit for the median until the rollback."""

    row: Row
    median: int


TARGETS = (
    Target(
        Row("3 x failures (1 v 3 %) at 25 %", "requests", split(0.01, 0.03, 0.25, 20_000)), 3_600
    ),
    Target(Row("shadow, wrong 12 v 2 %", "labels", shadow(0.12, 0.02, 1_500)), 190),
    Target(
        Row("broken, at 5 %, statistics alone", "requests", split(0.001, 1.0, 0.05, 1_000)), 150
    ),
)


def equal_rollout(random: np.random.Generator) -> tuple[float, float]:
    """Return the highest log E of the tests of one rollout between equal versions.

    Both rates move during each of two cycles, as in a day and a night.

    Returns:
        The highest log E at any time, and the difference from what `compute_evidence` returns at
        the end, which must be 0.
    """
    from eyevsai.evaluation.sequential import split_evidence
    from eyevsai.rollout.counts import Split, StepCounts
    from eyevsai.rollout.evidence import compute_evidence

    length = REQUESTS // len(SHARES)
    cycle = (1 - np.cos(np.linspace(0, 4 * np.pi, REQUESTS))) / 2
    steps = [StepCounts(share) for share in SHARES]
    highest, finals = 0.0, dict[str, float]()
    is_candidate = [random.random(length) < share for share in SHARES]
    for kind, (first, last) in RATES.items():
        has_event = random.random(REQUESTS) < first + (last - first) * cycle
        finished = 0.0
        for index, (step, share) in enumerate(zip(steps, SHARES, strict=True)):
            event = has_event[index * length : (index + 1) * length]
            hits, totals = _counts(is_candidate[index][event])
            path = finished + split_evidence(hits, totals, share)
            highest, finished = max(highest, float(path.max())), float(path[-1])
            step.events[kind] = Split(int(hits[-1]), int(totals[-1]))
        finals[kind] = finished
    evidence = compute_evidence(
        steps, failure_limit=0.01, tolerance=0.03, expected_disagreement=0.0
    )
    return highest, max(abs(finals[kind] - evidence.log_e[kind]) for kind in RATES)


def _counts(candidates: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int64], ...]:
    """Return the events of the candidate and of both versions after each event, from none on."""
    hits = np.concatenate([[0], candidates.cumsum()])
    return hits, np.arange(len(hits))


def requests_until_stop(seed: int) -> int:
    """Return the number of requests that a broken candidate gets before a server stops using it.

    The requests go through the router of the server, which splits them by key.
    """
    from prometheus_client import CollectorRegistry

    from eyevsai.registry.rollout_tag import TAG, RolloutTag
    from eyevsai.serving.http.answers import Answer
    from eyevsai.serving.http.rollout_router import RolloutRouter
    from eyevsai.serving.http.routing import RegistryState
    from eyevsai.serving.http.versions import VersionTable

    table = VersionTable()
    versions = {"production": SimpleNamespace(number=7), "candidate": SimpleNamespace(number=8)}
    table.assign(versions)  # type: ignore[arg-type]  # nothing is predicted
    metrics = SimpleNamespace(model="pets", registry=CollectorRegistry())
    router = RolloutRouter(table, b"secret", None, "a", metrics)  # type: ignore[arg-type]
    tag = RolloutTag("run", 1, "split", 500, str(seed), 8, 7, "run:0", 2_000.0)
    router.apply(RegistryState({"production": 7}, {TAG: tag.to_json()}))
    requests = 0
    for number in range(2_000):
        route = router.route(f"client-{number}", "")
        has_failed = route.version.number == 8
        requests += has_failed
        outcome = None if has_failed else SimpleNamespace()
        router.on_answer(
            Answer(
                id=str(number),
                at=0.0,
                model="pets",
                version=route.version.number,
                classes=(),
                arm=route.arm,
                step=route.step,
                outcome=outcome,  # type: ignore[arg-type]
                status=500 if has_failed else 200,
            )
        )
    return requests


def main() -> None:
    """Print the figures and whether they keep the limits."""
    start, random = time.perf_counter(), np.random.default_rng(0)
    results = [equal_rollout(random) for _ in range(ROLLOUTS)]
    rollbacks = float(np.mean([highest >= math.log(THRESHOLD) for highest, _ in results]))
    mark = _mark(rollbacks <= FALSE_ROLLBACKS)
    print(
        f"equal versions, both rates moving: {rollbacks:.2%} of {ROLLOUTS} rollouts of "
        f"{REQUESTS:,} requests rolled back (limit {FALSE_ROLLBACKS:.0%}{mark})"
    )
    print(f"largest difference from the evidence of a rollout: {max(e for _, e in results):.1g}")
    index = THRESHOLDS.index(THRESHOLD)
    for target in TARGETS:
        times = first_alarms(target.row, seed=0)[index]
        median, late = np.quantile(times, (0.5, 0.9), method="inverted_cdf")
        print(
            f"{target.row.name}: median {median:,.0f}, 90 % within {late:,.0f} {target.row.unit} "
            f"(limit {target.median:,}{_mark(median <= target.median)})"
        )
    logging.getLogger("eyevsai").setLevel(logging.CRITICAL)  # each stop is an error message
    requests = max(requests_until_stop(seed) for seed in range(200))
    print(
        f"broken candidate: {requests} of its requests until a server stops using it "
        f"(limit {BROKEN_FAILURES}{_mark(requests <= BROKEN_FAILURES)})"
    )
    print(f"{time.perf_counter() - start:.0f} s")
    with tempfile.TemporaryDirectory() as folder:
        measure_shadow(Path(os.environ.get("EYEVSAI_BENCHMARK_FOLDER", folder)))


def _mark(is_kept: bool) -> str:
    return "" if is_kept else ", EXCEEDED"
