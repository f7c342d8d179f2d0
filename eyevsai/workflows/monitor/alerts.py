"""Alert rules of a live model: pure functions of what was measured.

They are those of `deploy/prometheus/alerts.yml` that concern one model, for machines without
Prometheus. Only labels, failures and latency page; drift and estimates are tickets; image
statistics explain, and are no alert.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eyevsai.evaluation.windows import is_persistent
from eyevsai.workflows.monitor.live_windows import LiveWindow

PAGE, TICKET = "page", "ticket"
ERRORS, SLOW, DRIFT, ACCURACY, RISK, QUIET = ALERTS = (
    "ErrorsHigh",
    "SlowP99",
    "DriftDetected",
    "AccuracyEstimateLow",
    "RiskExceeded",
    "NoTraffic",
)
RETRAINING = "RetrainingFailing"  # an alert of `watch`
# The e-process exceeds 1 / RISK_ALPHA by chance with this probability, in any number of labels; the
# e-detector, which finds a change after a long good time sooner, exceeds DETECTOR_LABELS once in
# that many labels or fewer.
RISK_ALPHA, DETECTOR_LABELS = 0.01, 10_000
MARGIN = 0.05  # of accuracy, below the evaluated one
CURRENT = 3  # newest windows that decide
MIN_FAILED = 3  # failed answers of the newest windows below which they are no alert


@dataclass(frozen=True)
class Alert:
    """Alert of a rule; `severity` is `PAGE` or `TICKET`."""

    name: str
    severity: str
    text: str


@dataclass(frozen=True)
class Limits:
    """Limits of the rules; None disables a rule."""

    risk: float  # error rate
    accuracy: float
    failures: float
    latency_ms: float | None = None
    quiet_s: float | None = None


@dataclass(frozen=True)
class RiskResult:
    """Evidence of labels that the error rate exceeds a limit: logarithms, natural."""

    labels: int
    errors: int
    limit: float
    log_evidence: float  # of the e-process
    log_detector: float  # of the e-detector

    @property
    def is_exceeded(self) -> bool:
        """True if the evidence is sufficient for an alert."""
        by_process = self.log_evidence >= math.log(1 / RISK_ALPHA)
        return by_process or self.log_detector >= math.log(DETECTOR_LABELS)

    @property
    def accuracy(self) -> float | None:
        """Share of correct answers among the labelled ones; None without labels."""
        return None if not self.labels else 1 - self.errors / self.labels

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return vars(self) | {"is_exceeded": self.is_exceeded, "accuracy": self.accuracy}


def find_alerts(
    windows: Sequence[LiveWindow], risk: RiskResult, limits: Limits, now: float
) -> list[Alert]:
    """Return the alerts of the newest windows and of all labels, those that page first.

    Args:
        windows: windows in the order of their answers.
        risk: evidence of the labels.
        limits: limits of the rules.
        now: Unix time in seconds.
    """
    current = windows[-CURRENT:]
    rules = (
        _check_risk(risk),
        _check_failures(current, limits),
        _check_latency(current, limits),
        _check_quiet(windows, limits, now),
        _check_drift(current),
        _check_accuracy(current, limits),
    )
    return [alert for alert in rules if alert is not None]


def _check_risk(risk: RiskResult) -> Alert | None:
    if not risk.is_exceeded:
        return None
    share = risk.errors / risk.labels
    return Alert(
        RISK,
        PAGE,
        f"{risk.errors} of {risk.labels} labelled answers ({share:.1%}) are wrong: the error rate "
        f"exceeds the limit of {risk.limit:.1%} (log evidence {risk.log_evidence:.1f}).",
    )


def _check_failures(current: Sequence[LiveWindow], limits: Limits) -> Alert | None:
    answers = sum(each.answers for each in current)
    failed = sum(each.failed for each in current)
    if failed < MIN_FAILED or failed <= limits.failures * answers:
        return None
    return Alert(
        ERRORS,
        PAGE,
        f"{failed} of the last {answers} answers failed ({failed / answers:.1%}); the limit is "
        f"{limits.failures:.1%}.",
    )


def _check_latency(current: Sequence[LiveWindow], limits: Limits) -> Alert | None:
    slow = [_exceeds(each.p99_ms, limits.latency_ms) for each in current]
    if not slow or not is_persistent(slow):
        return None
    return Alert(
        SLOW,
        PAGE,
        f"The 99th percentile of the model time is {_last(current):.0f} ms; the limit is "
        f"{limits.latency_ms:g} ms.",
    )


def _exceeds(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value > limit


def _last(current: Sequence[LiveWindow]) -> float:
    return next(each.p99_ms for each in reversed(current) if each.p99_ms is not None)


def _check_quiet(windows: Sequence[LiveWindow], limits: Limits, now: float) -> Alert | None:
    if limits.quiet_s is None:
        return None
    last = max((each.last_at for each in windows), default=None)
    if last is not None and now - last <= limits.quiet_s:
        return None
    when = "in the period" if last is None else f"for {(now - last) / 3600:.1f} hours"
    return Alert(QUIET, TICKET, f"There was no answer {when}.")


def _check_drift(current: Sequence[LiveWindow]) -> Alert | None:
    compared = [each for each in current if each.comparison is not None]
    if not compared or not is_persistent([each.is_drift for each in compared]):
        return None
    drifted = [each for each in compared if each.is_drift]
    last = drifted[-1].comparison
    assert last is not None
    words = f" Images: {', '.join(last.explanation)}." if last.explanation else ""
    return Alert(
        DRIFT,
        TICKET,
        f"{len(drifted)} of the last {len(compared)} windows differ from the reference, mostly in "
        f"{last.drift.strongest.name}.{words}",
    )


def _check_accuracy(current: Sequence[LiveWindow], limits: Limits) -> Alert | None:
    estimates = [each.comparison.accuracy for each in current if each.comparison is not None]
    low = [max(each.confidence.accuracy, each.atc.accuracy) < limits.accuracy for each in estimates]
    if not low or not is_persistent(low):
        return None
    last = next(each for each, is_low in zip(estimates[::-1], low[::-1], strict=True) if is_low)
    return Alert(
        ACCURACY,
        TICKET,
        f"The estimated accuracy is {last.confidence.accuracy:.3f} by mean confidence and "
        f"{last.atc.accuracy:.3f} by ATC; the limit is {limits.accuracy:.3f}.",
    )


def names_of(alerts: Iterable[Alert]) -> str:
    """Return the names of alerts, separated by commas."""
    return ", ".join(each.name for each in alerts)
