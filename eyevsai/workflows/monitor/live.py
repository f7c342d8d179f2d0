"""Workflow of `monitor live`: measurement of a served model, and its alerts."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from eyevsai.core.errors import UserError, write_error
from eyevsai.core.json import to_json
from eyevsai.core.shell import quote
from eyevsai.inference_log.store import LogStore, open_log
from eyevsai.registry.audit_log import read_log, recording_audit, tag_call
from eyevsai.registry.audit_tags import model_tag
from eyevsai.registry.entities import Client, open_registry, read_model
from eyevsai.registry.lookup import find_name
from eyevsai.registry.stages import stage_holder
from eyevsai.reports.prometheus_text import write_gauges
from eyevsai.store.backend import raising_store_errors
from eyevsai.store.tags import JOB
from eyevsai.workflows.drift_reference import load_reference
from eyevsai.workflows.job_context import job_context
from eyevsai.workflows.monitor.alerts import Alert, names_of
from eyevsai.workflows.monitor.gauges import HELP, list_gauges
from eyevsai.workflows.monitor.measure import (
    LiveMeasurement,
    LiveVersion,
    choose_limits,
    measure,
)
from eyevsai.workflows.monitor.settings import AlertSettings, LiveSettings
from eyevsai.workflows.monitor.webhook import read_webhook_secret, send_webhook
from eyevsai.workflows.trained_model import find_trained_model

log = logging.getLogger("eyevsai")

ALERT = "alert"  # action of an audit entry: the alerts of a model changed
NO_ALERTS = "no alerts"
RESULTS = "live.json"  # artifact of the audit run


@dataclass(frozen=True)
class LiveReport:
    """Result of `monitor live`."""

    measured: LiveMeasurement
    run_id: str | None  # audit run, if the alerts differ from those of the last call
    webhook: str | None  # `sent`, or the error; None if nothing was to be sent

    @property
    def is_alarm(self) -> bool:
        """True if there is an alert."""
        return bool(self.measured.alerts)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        extra = {"is_alarm": self.is_alarm, "run_id": self.run_id, "webhook": self.webhook}
        return self.measured.to_json() | extra


def monitor_live(name: str, settings: LiveSettings, run_id: str | None = None) -> LiveReport:
    """Measure the version in Production by its inference log, and send alerts.

    Args:
        name: registered model.
        settings: period, thresholds, and where alerts are sent.
        run_id: run that `mlflow run` created for this call; a later command deletes it, since the
            audit log has the alerts.

    Raises:
        UserError: the model has no version in Production, or one without a reference; or the page
            or the metrics file cannot be written.
        LogUnavailableError: the inference log is unreachable.
    """
    secret = None if settings.webhook is None else read_webhook_secret(settings)
    with job_context(settings.state_dir, run_id, creates_runs=False) as job:
        client = open_registry(job.tracking_uri)
        with raising_store_errors(job.tracking_uri, f"Monitoring {name}"):
            live = load_live_version(client, job.tracking_uri, name)
            tags = {JOB: "monitor", "model_uri": f"models:/{live.model}/{live.number}"}
            tag_call(client, run_id, f"monitor {live.model}", tags)
            store = open_log(settings)
            try:
                measured = measure_now(store, live, settings)
            finally:
                store.close()
            if settings.metrics_file is not None:
                write_gauges(settings.metrics_file, list_gauges(measured), HELP)
            record = record_alerts(client, measured)
        _write_page(Path(settings.page), measured)
        webhook = send_alerts(settings, secret, measured.model, measured.alerts, measured.to_json())
        return LiveReport(measured, record, webhook)


def measure_now(store: LogStore, live: LiveVersion, settings: LiveSettings) -> LiveMeasurement:
    """Measure a version until now.

    Args:
        store: the inference log.
        live: version to measure.
        settings: period and thresholds.
    """
    now = time.time()
    limits = choose_limits(live.reference, settings, settings.risk_limit, settings.accuracy_floor)
    return measure(store, live, settings, limits, (now - settings.since_s, now))


def load_live_version(client: Client, tracking_uri: str, name: str) -> LiveVersion:
    """Return the version of a registered model that is in Production, with its reference.

    Raises:
        UserError: there is no such model, no version of it is in Production, or that one has no
            reference.
    """
    name, _ = find_name(tracking_uri, name)
    number = stage_holder(read_model(client, name), "production").version
    if number is None:
        raise UserError(
            f"No version of {name} is in Production. Promote one with: eyevsai promote "
            f"{quote(name)}/VERSION"
        )
    source_model = find_trained_model(tracking_uri, f"models:/{name}/{number}")
    return LiveVersion(name, number, load_reference(source_model))


def record_alerts(client: Client, measured: LiveMeasurement) -> str | None:
    """Add an audit entry if the alerts of a model changed; return the id of its run.

    A call every ten minutes would otherwise fill the audit log with the same alert.

    Args:
        client: client of the store.
        measured: measurement of the model.
    """
    entries = [each for each in read_log(client, measured.model) if each.action == ALERT]
    before = entries[-1].reason if entries else NO_ALERTS
    names = names_of(measured.alerts) or NO_ALERTS
    if names == before:
        return None
    tags = {
        model_tag(measured.model): str(measured.version),
        "model": measured.model,
        "reason": names,
        "alerts": "\n".join(each.text for each in measured.alerts),
    }
    title = f"{measured.model}: {names}"
    with recording_audit(client, ALERT, title, tags) as record:
        record.json(RESULTS, measured.to_json())
    return record.run_id


def send_alerts(
    settings: AlertSettings,
    secret: str | None,
    model: str,
    alerts: list[Alert],
    details: Mapping[str, Any],
) -> str | None:
    """Send alerts to the webhook, if there are any; return `sent`, or the error.

    An unreachable receiver is logged: the exit code and the audit log report the alerts as well.

    Args:
        settings: the webhook.
        secret: secret of the signature; None without a webhook.
        model: name of the registered model.
        alerts: active alerts.
        details: JSON values of the measurement, of which the version and the risk are sent.
    """
    if settings.webhook is None or secret is None or not alerts:
        return None
    try:
        send_webhook(settings.webhook, secret, make_message(model, alerts, details))
    except UserError as error:
        log.error("%s", error)
        return str(error)
    return "sent"


def make_message(model: str, alerts: list[Alert], details: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a message about alerts; a receiver finds repeated ones by its id.

    Args:
        model: name of the registered model.
        alerts: active alerts.
        details: JSON values of the measurement, of which the version and the risk are sent.
    """
    return {
        "id": uuid4().hex,
        "model": model,
        "version": details.get("version"),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "alerts": to_json(alerts),
        "risk": details.get("risk"),
    }


def _write_page(path: Path, measured: LiveMeasurement) -> None:
    """Write the HTML page; raise UserError if it cannot be written."""
    from eyevsai.reports.live_page import render_live_page
    from eyevsai.reports.page import PageOrigin

    content = render_live_page(measured.to_json(), origin=PageOrigin(datetime.now().astimezone()))
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise write_error(path, error, "Choose another --page.") from error
