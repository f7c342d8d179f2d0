"""Simulations of the always-valid tests of `eyevsai.evaluation.sequential`.

The evidence is looked at after every event. A test alarms at E >= 100 if it is alone (alpha 0.01),
and at E >= 300 in a rollout, where three kinds of event share this alpha. Rows without a difference
report false alarms, the others the number of requests or labels until the alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

THRESHOLDS = (100, 300)
FALSE_ALARMS = 0.01  # limit at E >= 100 and more
RAMP = (0.01, 0.05, 0.25, 0.5)  # shares of the candidate
CHUNK = 100  # simulations at once: bounds memory
Path = npt.NDArray[np.float64]  # simulations,T: log E after each request or label


@dataclass(frozen=True)
class Row:
    """Simulation of one situation.

    `simulate` returns log E after each request or label of a number of simulations. `median` is the
    limit for the median number until an alarm at E >= 100; None if there is no difference to find.
    """

    name: str
    unit: str
    simulate: Callable[[np.random.Generator, int], Path]
    median: int | None = None
    simulations: int = 1_000


def _path(
    hits: npt.NDArray[np.int64],
    events: npt.NDArray[np.int64],
    share: float,
    compute: Callable[..., Path],
    finished: Path | float = 0.0,
) -> Path:
    """Return log E after each event, and -inf where E is certainly below all thresholds.

    With the share q = hits / events, log E is at most events KL(q, share), and that at most
    (hits - events share)^2 / (events share (1 - share)).

    Args:
        hits: simulations,T events of the candidate so far.
        events: simulations,T or T events so far.
        share: share of the candidate under the null hypothesis.
        compute: function of hits and events.
        finished: simulations,1 log E of the steps before.
    """
    excess = hits - events * share
    needed = np.maximum(math.log(THRESHOLDS[0]) - finished, 0) * share * (1 - share)
    possible = (excess > 0) & (excess**2 >= needed * events)
    path = np.full(hits.shape, -np.inf)
    path[possible] = compute(hits[possible], np.broadcast_to(events, hits.shape)[possible])
    return path + finished


def equal_split(share: float, events: int) -> Callable[[np.random.Generator, int], Path]:
    """Return a simulation of a split between equal models, counted in events of any rate."""
    from eyevsai.evaluation.sequential import split_evidence

    totals = np.arange(1, events + 1)

    def simulate(random: np.random.Generator, count: int) -> Path:
        hits = (random.random((count, events), dtype=np.float32) < share).cumsum(axis=1)
        return _path(hits, totals, share, partial(split_evidence, share=share))

    return simulate


def split(
    current: float, candidate: float, share: float, requests: int
) -> Callable[[np.random.Generator, int], Path]:
    """Return a simulation of a split with constant event rates."""
    from eyevsai.evaluation.sequential import split_evidence

    def simulate(random: np.random.Generator, count: int) -> Path:
        is_candidate = random.random((count, requests)) < share
        rates = np.where(is_candidate, candidate, current)
        has_event = random.random((count, requests)) < rates
        hits, events = (has_event & is_candidate).cumsum(axis=1), has_event.cumsum(axis=1)
        return _path(hits, events, share, partial(split_evidence, share=share))

    return simulate


def ramp(
    first_rate: float, last_rate: float, requests: int, *, pooled: bool = False
) -> Callable[[np.random.Generator, int], Path]:
    """Return a simulation of equal models in a ramp while their common rate moves.

    Args:
        first_rate: event rate of both models at the start.
        last_rate: event rate of both models at the end; it moves linearly.
        requests: requests in each step of `RAMP`.
        pooled: add the counts of all steps, and compare with the mean share so far. This is wrong.
    """
    from eyevsai.evaluation.sequential import split_evidence

    total = requests * len(RAMP)
    rates = np.linspace(first_rate, last_rate, total, dtype=np.float32)
    shares = np.repeat(RAMP, requests).astype(np.float32)
    mean_shares = shares.cumsum(dtype=np.float64) / np.arange(1, total + 1)

    def simulate(random: np.random.Generator, count: int) -> Path:
        has_event = random.random((count, total), dtype=np.float32) < rates
        is_hit = has_event & (random.random((count, total), dtype=np.float32) < shares)
        if pooled:
            at = np.arange(0, total, 20)  # looked at every 20 requests
            hits, events = (each.cumsum(axis=1)[:, at] for each in (is_hit, has_event))
            return split_evidence(hits, events, mean_shares[at])
        path, finished = np.empty((count, total)), np.zeros((count, 1))
        for step, share in enumerate(RAMP):
            part = slice(step * requests, (step + 1) * requests)
            hits, events = (each[:, part].cumsum(axis=1) for each in (is_hit, has_event))
            compute = partial(split_evidence, share=share)
            path[:, part] = _path(hits, events, share, compute, finished)
            finished = finished + split_evidence(hits[:, -1:], events[:, -1:], share)
        return path

    return simulate


def shadow(
    only_candidate: float, only_current: float, labels: int
) -> Callable[[np.random.Generator, int], Path]:
    """Return a simulation of labelled answers of both models to the same images."""
    from eyevsai.evaluation.sequential import paired_evidence

    def simulate(random: np.random.Generator, count: int) -> Path:
        draws = random.random((count, labels))
        first = (draws < only_candidate).cumsum(axis=1)
        events = first + (draws > 1 - only_current).cumsum(axis=1)
        return _path(first, events, 0.5, lambda hits, total: paired_evidence(hits, total - hits))

    return simulate


def risk(
    error: float, limit: float, labels: int, good: int = 0
) -> Callable[[np.random.Generator, int], Path]:
    """Return a simulation of labels of the live model; the first `good` have an error of 5 %.

    The path starts after these.
    """
    from eyevsai.evaluation.sequential import risk_evidence

    rates = np.repeat([0.05, error], [good, labels])

    def simulate(random: np.random.Generator, count: int) -> Path:
        return risk_evidence(random.random((count, good + labels)) < rates, limit)[:, good:]

    return simulate


def limit_proof(rate: float, limit: float, answers: int) -> Callable[..., Path]:
    """Return a simulation of the evidence that a rate is below a limit."""
    from eyevsai.evaluation.sequential import limit_evidence

    totals = np.arange(1, answers + 1)

    def simulate(random: np.random.Generator, count: int) -> Path:
        clean = (random.random((count, answers)) >= rate).cumsum(axis=1)
        return _path(
            clean,
            totals,
            1 - limit,
            lambda hits, total: limit_evidence(total - hits, total, limit),
        )

    return simulate


def rows() -> Iterator[Row]:
    """Yield the simulated situations: first those without a difference."""
    for share in (0.05, 0.25, 0.5):
        yield Row(
            f"equal models, share {share:.0%}", "events", equal_split(share, 20_000), None, 5_000
        )
    yield Row("ramp, both from 40 to 8 %", "requests", ramp(0.4, 0.08, 20_800), None, 2_000)
    yield Row("ramp, both from 8 to 40 %", "requests", ramp(0.08, 0.4, 20_800), None, 2_000)
    yield Row("ramp, both from 0.4 to 2 %", "requests", ramp(0.004, 0.02, 5_000), None, 2_000)
    yield Row("shadow, 8 v 8 %", "labels", shadow(0.08, 0.08, 20_000), None, 5_000)
    yield Row("risk 12 %, limit 12 %", "labels", risk(0.12, 0.12, 20_000), None, 2_000)
    yield Row("rate 1 %, limit 1 %", "answers", limit_proof(0.01, 0.01, 20_000), None, 10_000)
    yield Row("broken, share 5 %", "requests", split(0.001, 1.0, 0.05, 1_000), 100)
    yield Row("1 v 20 %, share 5 %", "requests", split(0.01, 0.2, 0.05, 5_000), 500)
    yield Row("1 v 3 %, share 25 %", "requests", split(0.01, 0.03, 0.25, 20_000), 3_000)
    yield Row("shadow, 12 v 2 %", "labels", shadow(0.12, 0.02, 1_500), 150)
    yield Row("shadow, 8 v 3 %", "labels", shadow(0.08, 0.03, 4_000), 500)
    yield Row("risk 23 %, limit 12 %", "labels", risk(0.23, 0.12, 1_500), 130)
    yield Row("risk 18 %, limit 12 %", "labels", risk(0.18, 0.12, 4_000), 400)
    yield Row("risk 23 % after 5,000 at 5 %", "labels", risk(0.23, 0.12, 1_500, good=5_000), 350)
    yield Row("no failures, limit 1 %", "answers", limit_proof(0.0, 0.01, 1_000), 480)


def first_alarms(row: Row, seed: int) -> npt.NDArray[np.float64]:
    """Return the number of requests or labels until the alarm, inf for none.

    Returns:
        thresholds,simulations.
    """
    random, parts = np.random.default_rng(seed), []
    for start in range(0, row.simulations, CHUNK):
        path = row.simulate(random, min(CHUNK, row.simulations - start))
        passed = [path >= math.log(threshold) for threshold in THRESHOLDS]
        parts.append(
            [np.where(each.any(axis=1), each.argmax(axis=1) + 1.0, np.inf) for each in passed]
        )
    return np.concatenate(parts, axis=1)


def report() -> None:
    """Print a line for each situation, and one for counts that are wrongly pooled over a ramp."""
    titles = "".join(f"{f'E >= {threshold}':>22}" for threshold in THRESHOLDS)
    print(f"{'false alarms, or median (p90)':<36}{titles}")
    for row in rows():
        cells, is_kept = [], True
        for threshold, times in zip(THRESHOLDS, first_alarms(row, seed=0), strict=True):
            share = float(np.isfinite(times).mean())
            if row.median is None:
                cells.append(f"{share:.2%}")
                error = math.sqrt(share * (1 - share) / len(times))  # of the simulation
                is_kept &= share <= FALSE_ALARMS + 2 * error
            else:
                median, late = np.quantile(times, (0.5, 0.9), method="inverted_cdf")
                cells.append(f"{median:,.0f} ({late:,.0f})")
                is_kept &= bool(median <= row.median) or threshold != THRESHOLDS[0]
        limit = "1 %" if row.median is None else f"{row.median:,} {row.unit} at E >= 100"
        mark = "" if is_kept else ", EXCEEDED"
        line = "".join(f"{cell:>22}" for cell in cells)
        print(f"{row.name:<36}{line}   (limit {limit}{mark})", flush=True)
    pooled = Row("", "requests", ramp(0.004, 0.02, 5_000, pooled=True), None, 200)
    shares = np.isfinite(first_alarms(pooled, seed=0)).mean(axis=1)
    line = "".join(f"{share:>22.1%}" for share in shares)
    print(f"{'both from 0.4 to 2 %, pooled':<36}{line}   (invalid, for comparison)")
