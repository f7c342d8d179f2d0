"""Measurement of a live model from its inference log: windows, labels and alerts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import func, select

from eyevsai.core.json import to_json
from eyevsai.evaluation.comparison import WindowComparer
from eyevsai.evaluation.monitor_settings import MIN_IMAGES
from eyevsai.evaluation.reference import Reference
from eyevsai.evaluation.sequential import risk_detector, risk_evidence
from eyevsai.inference_log.ids import first_id
from eyevsai.inference_log.labels import LabelReader
from eyevsai.inference_log.reading import read_answers
from eyevsai.inference_log.records import OK
from eyevsai.inference_log.schema import answers as answers_table
from eyevsai.inference_log.store import LogStore
from eyevsai.workflows.monitor.alerts import MARGIN, Alert, Limits, RiskResult, find_alerts
from eyevsai.workflows.monitor.live_windows import (
    SERVED,
    LiveWindow,
    choose_size,
    measure_windows,
    select_columns,
)
from eyevsai.workflows.monitor.settings import ALL_LABELS, ASKED, ASKED_AT_RANDOM, AlertSettings

_ASKED = {ASKED_AT_RANDOM: "random", ASKED: "any", ALL_LABELS: None}
_PAGE_SIZE = 10_000  # labels that are read at once


@dataclass(frozen=True)
class LiveMeasurement:
    """Measurement of the version in Production by the log; times are Unix times in seconds."""

    model: str
    version: int
    since: float
    until: float
    windows: list[LiveWindow]
    risk: RiskResult
    labels: dict[str, Any]  # counts of labels, and of labels by source
    alerts: list[Alert]
    limits: Limits
    evaluated: float  # accuracy on the reference
    alpha: float  # probability of a false alarm of drift in each window

    @property
    def answers(self) -> int:
        """Number of answers."""
        return sum(each.answers for each in self.windows)

    @property
    def current(self) -> LiveWindow | None:
        """Newest window that was compared with the reference; None if there is none."""
        return next((each for each in self.windows[::-1] if each.comparison is not None), None)

    @property
    def notes(self) -> list[str]:
        """Sentences about what the measurement does not show."""
        notes = []
        if self.current is None:
            notes.append(
                f"Version {self.version} has {self.answers} answers in the period: {MIN_IMAGES} "
                "are required to detect drift."
            )
        if not self.risk.labels:
            notes.append(
                "No label of an answer that was drawn at random: the error rate is unknown. Draw "
                f"some with: eyevsai feedback suggest {self.model}"
            )
        if waiting := self.labels.get("waiting"):
            notes.append(f"{waiting} labels wait for their answer.")
        for name in ("unknown", "disputed"):
            if count := self.labels.get(name):
                notes.append(f"{count} labels are {name} and not used.")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Return the measurement as JSON values."""
        return {
            "model": self.model,
            "version": self.version,
            "since": self.since,
            "until": self.until,
            "answers": self.answers,
            "evaluated_accuracy": self.evaluated,
            "alerts": to_json(self.alerts),
            "limits": to_json(self.limits),
            "alpha": self.alpha,
            "risk": self.risk.to_json(),
            "labels": self.labels,
            "notes": self.notes,
            "windows": to_json(self.windows),
        }

    def metrics(self) -> dict[str, float]:
        """Return the newest values by their names in MLflow."""
        values = {"alerts": float(len(self.alerts)), "labels": float(self.risk.labels)}
        values["risk_log_evidence"] = self.risk.log_evidence
        if self.risk.accuracy is not None:
            values["labelled_accuracy"] = self.risk.accuracy
        current = self.current
        return values | (current.comparison.metrics() if current and current.comparison else {})


@dataclass(frozen=True)
class LiveVersion:
    """Version in Production, and its drift reference."""

    model: str
    number: int
    reference: Reference


def measure(
    store: LogStore,
    live: LiveVersion,
    settings: AlertSettings,
    limits: Limits,
    period: tuple[float, float],
) -> LiveMeasurement:
    """Measure a version in a period.

    Args:
        store: the inference log.
        live: version to measure.
        settings: windows and thresholds of drift, and the labels to use.
        limits: limits of the alert rules.
        period: Unix times of the first and the last answer.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the logged probabilities are not those of the version's classes.
    """
    since, until = period
    size = choose_size(_count_answers(store, live, since), settings.window)
    comparer = WindowComparer(
        live.reference, alpha=settings.alpha, min_distance=settings.min_distance
    )
    blocks = read_answers(store, live.model, version=live.number, arms=SERVED, since=since)
    windows = list(measure_windows(map(select_columns, blocks), size, comparer))
    reader = LabelReader(store)
    risk = measure_risk(read_losses(reader, live, settings.risk_labels), limits.risk)
    return LiveMeasurement(
        live.model,
        live.number,
        since,
        until,
        windows,
        risk,
        to_json(reader.summary(live.model, since=since)),
        find_alerts(windows, risk, limits, until),
        limits,
        live.reference.baseline.accuracy,
        settings.alpha,
    )


def _count_answers(store: LogStore, live: LiveVersion, since: float) -> int:
    """Return the number of answers of a version that clients received since a time."""
    table = answers_table.c
    count = (
        select(func.count())
        .select_from(answers_table)
        .where(table.model == live.model, table.version == live.number)
        .where(table.arm.in_(SERVED), table.id >= first_id(since))
    )
    with store.reading() as connection:
        return int(connection.scalar(count) or 0)


def choose_limits(
    reference: Reference, settings: AlertSettings, risk: float | None, accuracy: float | None
) -> Limits:
    """Return the limits of the rules; those that are None follow from the evaluation.

    Args:
        reference: drift reference of the version, with its accuracy.
        settings: further limits.
        risk: largest acceptable error rate, or None.
        accuracy: lowest acceptable estimated accuracy, or None.
    """
    evaluated = reference.baseline.accuracy
    return Limits(
        risk=min(1 - 1e-6, 1 - evaluated + MARGIN) if risk is None else risk,
        accuracy=evaluated - MARGIN if accuracy is None else accuracy,
        failures=settings.max_failures,
        latency_ms=settings.max_latency_ms,
        quiet_s=settings.max_silence_s,
    )


def read_losses(reader: LabelReader, live: LiveVersion, labels: str) -> list[int]:
    """Return 1 for each wrong answer and 0 for each correct one, in the order of their labels.

    Each answer counts with its first accepted label: a correction does not repeat the test.

    Args:
        reader: labels of the log.
        live: version whose answers count.
        labels: value of `AlertSettings.risk_labels`.
    """
    losses, after = list[int](), 0
    while True:
        page = reader.accepted(
            live.model,
            after_seq=after,
            asked_for=_ASKED[labels],
            version=live.number,
            limit=_PAGE_SIZE,
        )
        served = (each for each in page if each.arm in SERVED and each.status == OK)
        losses += [int(each.label != each.predicted) for each in served]
        if len(page) < _PAGE_SIZE:
            return losses
        after = page[-1].seq


def measure_risk(losses: Sequence[int], limit: float) -> RiskResult:
    """Return the evidence of labels that the error rate exceeds a limit.

    Args:
        losses: 1 for each wrong answer, 0 for each correct one, in the order of their labels.
        limit: largest acceptable error rate.
    """
    if not losses:
        return RiskResult(0, 0, limit, 0.0, 0.0)
    values = np.asarray(losses, dtype=np.float64)
    return RiskResult(
        len(losses),
        int(values.sum()),
        limit,
        # the largest value counts: looking later must not lose an alarm
        float(risk_evidence(values, limit).max()),
        float(risk_detector(values, limit).max()),
    )
