"""Gauges of a measured live model, for Prometheus."""

from __future__ import annotations

from collections.abc import Collection

from eyevsai.evaluation.windows import is_persistent
from eyevsai.reports.prometheus_text import Gauge
from eyevsai.workflows.monitor.alerts import ALERTS, CURRENT
from eyevsai.workflows.monitor.measure import LiveMeasurement

HELP = {
    "eyevsai_evaluated_accuracy": "Accuracy on the reference of the version.",
    "eyevsai_estimated_accuracy": "Accuracy of the newest window, estimated or by labels.",
    "eyevsai_drift_log_p": "Natural logarithm of p of a difference from the reference.",
    "eyevsai_drift_distance": "Size of a difference from the reference, 0 to 1.",
    "eyevsai_drift_persistent": "1 if two of the newest three windows drifted.",
    "eyevsai_risk_log_evidence": "Evidence of labels that the error rate exceeds its limit.",
    "eyevsai_alert": "1 while an alert of eyevsai monitor is active.",
    "eyevsai_monitor_timestamp_seconds": "Time of the newest measurement.",
    "eyevsai_retraining_state": "1 for the state of the retraining.",
    "eyevsai_retraining_failures": "Consecutive failures of the retraining.",
}


def list_gauges(measured: LiveMeasurement) -> list[Gauge]:
    """Return the gauges of a measurement; those of windows are missing if none was compared."""
    labels = {"model": measured.model, "version": str(measured.version)}
    active = {each.name for each in measured.alerts}
    gauges = [
        Gauge("eyevsai_evaluated_accuracy", labels, measured.evaluated),
        Gauge("eyevsai_risk_log_evidence", labels, measured.risk.log_evidence),
        Gauge("eyevsai_monitor_timestamp_seconds", {"model": measured.model}, measured.until),
        *(
            Gauge("eyevsai_alert", labels | {"alert": name}, float(name in active))
            for name in ALERTS
        ),
    ]
    if measured.risk.accuracy is not None:
        by_labels = labels | {"method": "labels"}
        gauges.append(Gauge("eyevsai_estimated_accuracy", by_labels, measured.risk.accuracy))
    return gauges + _list_window_gauges(measured, labels)


def _list_window_gauges(measured: LiveMeasurement, labels: dict[str, str]) -> list[Gauge]:
    """Return the gauges of the newest window."""
    current = measured.current
    if current is None or current.comparison is None:
        return []
    comparison, drifted = current.comparison, [each.is_drift for each in measured.windows]
    estimates = {"confidence": comparison.accuracy.confidence, "atc": comparison.accuracy.atc}
    drift = comparison.drift
    distances = {"confidence": drift.confidence, "predictions": drift.predictions}
    gauges = [
        Gauge("eyevsai_estimated_accuracy", labels | {"method": name}, each.accuracy)
        for name, each in estimates.items()
    ]
    gauges.append(
        Gauge("eyevsai_drift_persistent", labels, float(is_persistent(drifted[-CURRENT:])))
    )
    strongest = labels | {"what": "strongest"}
    gauges.append(Gauge("eyevsai_drift_log_p", strongest, drift.log_p))
    gauges.append(Gauge("eyevsai_drift_distance", strongest, drift.strongest.distance))
    for what, each in distances.items():
        gauges.append(Gauge("eyevsai_drift_log_p", labels | {"what": what}, each.log_p))
        gauges.append(Gauge("eyevsai_drift_distance", labels | {"what": what}, each.distance))
    return gauges


def list_state_gauges(
    model: str, state: str, states: Collection[str], failures: int
) -> list[Gauge]:
    """Return the gauges of a retraining.

    Args:
        model: name of the registered model.
        state: current state.
        states: all states.
        failures: consecutive failures.
    """
    return [
        *(
            Gauge("eyevsai_retraining_state", {"model": model, "state": each}, float(each == state))
            for each in states
        ),
        Gauge("eyevsai_retraining_failures", {"model": model}, float(failures)),
    ]
