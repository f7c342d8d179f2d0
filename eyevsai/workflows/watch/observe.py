"""Observation of a served model by a watcher: reasons for a retraining, and new labels."""

from __future__ import annotations

import time

from eyevsai.registry.entities import read_model
from eyevsai.retraining.reasons import Signals, find_reasons
from eyevsai.retraining.record import Observed
from eyevsai.workflows.monitor.alerts import ACCURACY, DRIFT, RISK
from eyevsai.workflows.monitor.measure import (
    LiveMeasurement,
    LiveVersion,
    choose_limits,
    measure,
)
from eyevsai.workflows.watch.actions import Actions


def measure_for_policy(actions: Actions, live: LiveVersion) -> LiveMeasurement:
    """Measure a version until now, with the limits of the policy.

    Raises:
        LogUnavailableError: the inference log is unreachable.
    """
    rules, settings, now = actions.policy.rules, actions.settings, time.time()
    limits = choose_limits(live.reference, settings, rules.risk_limit, rules.accuracy_floor)
    return measure(actions.store, live, settings, limits, (now - settings.since_s, now))


def observe(
    actions: Actions, live: LiveVersion, measured: LiveMeasurement, labels_until: int
) -> Observed:
    """Return the reasons for a retraining, and the number of new labelled images.

    Args:
        actions: actions on the model, with the policy and the log.
        live: version in Production.
        measured: its measurement.
        labels_until: position of the newest label that a training has used.
    """
    names = {each.name for each in measured.alerts}
    labelled = actions.labelled(live.reference.classes)
    new_labels = labelled.count_new(labels_until)
    versions = read_model(actions.client, live.model).versions
    created = {each.number: each.created_ms / 1000 for each in versions}
    signals = Signals(
        drift=DRIFT in names,
        low_accuracy=ACCURACY in names,
        risk=RISK in names,
        new_labels=new_labels,
        age_s=time.time() - created.get(live.number, time.time()),
        by_hand=actions.settings.start,
    )
    return Observed(find_reasons(signals, actions.policy.rules), new_labels, live.number)
