"""Observation of a served model by a watcher: reasons for a retraining, and new labels."""

from __future__ import annotations

import time

from eyevsai.registry.entities import read_model
from eyevsai.retraining.reasons import Signals, find_reasons
from eyevsai.retraining.record import Observed
from eyevsai.workflows.monitor.alerts import ACCURACY, DRIFT, RISK
from eyevsai.workflows.monitor.measure import (
    LiveMeasurement,
    choose_limits,
    measure,
)
from eyevsai.workflows.watch.context import WatchContext


def measure_for_policy(context: WatchContext) -> LiveMeasurement:
    """Measure a version until now, with the limits of the policy.

    Raises:
        LogUnavailableError: the inference log is unreachable.
    """
    live, rules, settings, now = context.live, context.policy.rules, context.settings, time.time()
    limits = choose_limits(live.reference, settings, rules.risk_limit, rules.accuracy_floor)
    return measure(context.store, live, settings, limits, (now - settings.since_s, now))


def observe(context: WatchContext, measured: LiveMeasurement, labels_until: int) -> Observed:
    """Return the reasons for a retraining, and the number of new labelled images.

    Args:
        context: the model, with the policy and the log.
        measured: its measurement.
        labels_until: position of the newest label that a training has used.
    """
    names = {each.name for each in measured.alerts}
    labelled = context.labelled()
    new_labels = labelled.count_new(labels_until)
    versions = read_model(context.client, context.model).versions
    created = {each.number: each.created_ms / 1000 for each in versions}
    signals = Signals(
        drift=DRIFT in names,
        low_accuracy=ACCURACY in names,
        risk=RISK in names,
        new_labels=new_labels,
        age_s=time.time() - created.get(context.production, time.time()),
        by_hand=context.settings.start,
    )
    return Observed(find_reasons(signals, context.policy.rules), new_labels, context.production)
