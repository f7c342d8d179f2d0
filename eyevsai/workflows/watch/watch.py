"""Workflow of `watch`: one call performs what is due in the retraining of a served model."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from eyevsai.core.errors import UserError, first_line
from eyevsai.inference_log.store import LogStore, open_log
from eyevsai.registry.audit_log import recording_audit, tag_call
from eyevsai.registry.audit_tags import model_tag
from eyevsai.registry.entities import Client, open_registry
from eyevsai.registry.retraining_runs import open_retraining_run
from eyevsai.reports.prometheus_text import write_gauges
from eyevsai.retraining.reasons import Reason
from eyevsai.retraining.record import Action, Event, Failed, Retraining, State, describe
from eyevsai.retraining.state import advance, begin, elapse, next_step
from eyevsai.store.backend import raising_store_errors
from eyevsai.store.given_run import check_given_run, name_given_run, tag_given_run
from eyevsai.store.tags import JOB
from eyevsai.workflows.job_context import job_context
from eyevsai.workflows.monitor.alerts import PAGE, RETRAINING, Alert
from eyevsai.workflows.monitor.gauges import HELP, list_gauges, list_state_gauges
from eyevsai.workflows.monitor.live import load_live_version, record_alerts
from eyevsai.workflows.monitor.measure import LiveMeasurement
from eyevsai.workflows.monitor.webhook import read_webhook_secret
from eyevsai.workflows.watch.actions import HANDLERS
from eyevsai.workflows.watch.context import WatchContext
from eyevsai.workflows.watch.lease import HeldLease, holding
from eyevsai.workflows.watch.notify import Notifier
from eyevsai.workflows.watch.observe import measure_for_policy, observe
from eyevsai.workflows.watch.settings import WatchSettings, read_watch_policy

log = logging.getLogger("eyevsai")

AUDIT = "retraining"  # action of an audit entry: the state changed
MAX_TEXT = 500  # characters of an error or an outcome in the stored state
BUSY = "busy"  # state of a result while another watcher works on the model
MAX_STEPS = 30  # changes of state in one call; a cycle has half of that


@dataclass(frozen=True)
class WatchResult:
    """Result of one call."""

    model: str
    state: str
    changes: tuple[str, ...]  # changes of state by this call
    text: str  # what the retraining waits for; empty if for nothing
    outcome: str = ""  # of the last cycle
    version: int | None = None  # that the current cycle trained
    alerts: tuple[str, ...] = ()
    unsent: int = 0  # messages that the receiver of the webhook has not got yet
    run_id: str | None = None  # run with the state

    @property
    def has_failed(self) -> bool:
        """True if the retraining waits after a failure, or was stopped."""
        return self.state in (State.FAILED, State.STOPPED)

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return vars(self) | {"changes": list(self.changes), "alerts": list(self.alerts)}


def watch(settings: WatchSettings, run_id: str | None = None) -> WatchResult:
    """Monitor a served model, and perform the steps of its retraining that are due.

    The state is stored after each step, so that any later call, on any machine with the same store,
    log and folder, continues. Of several calls at once, one works, and the others do nothing.

    Args:
        settings: settings of the call.
        run_id: run that `mlflow run` created for this call; a later command deletes it if nothing
            was changed.

    Raises:
        UserError: the policy is invalid, or the model has no version in Production or none with a
            drift reference.
        LogUnavailableError: the inference log is unreachable.
    """
    policy = read_watch_policy(settings.policy)
    secret = None if settings.webhook is None else read_webhook_secret(settings)
    with job_context(settings.state_dir, run_id, creates_runs=False) as job:
        client = open_registry(job.tracking_uri)
        with raising_store_errors(job.tracking_uri, f"Watching {settings.name}"):
            if run_id is not None:
                check_given_run(client, run_id)
            live = load_live_version(client, job.tracking_uri, str(settings.name))
            with _opened(settings) as store, holding(store, job.tracking_uri, live.model) as lease:
                if lease is None:
                    result = WatchResult(live.model, BUSY, (), "another watcher works on it.")
                else:
                    state_run = open_retraining_run(client, live.model)
                    context = WatchContext(job, client, store, settings, policy, state_run, live)
                    result = _Watcher(context, lease, secret).run()
            _tag_call(client, run_id, result)
        return result


@contextmanager
def _opened(settings: WatchSettings) -> Iterator[LogStore]:
    store = open_log(settings)
    try:
        yield store
    finally:
        store.close()


def _tag_call(client: Client, run_id: str | None, result: WatchResult) -> None:
    """Name the run of `mlflow run` after the changes; without any, a later command deletes it."""
    tags = {JOB: "watch", "model": result.model, "state": result.state}
    if run_id is None:
        return
    if not result.changes:
        tag_call(client, run_id, f"watch {result.model}", tags)
        return
    tag_given_run(client, run_id, tags | {"changes": "; ".join(result.changes)})
    name_given_run(client, run_id, f"watch {result.model}: {result.changes[-1]}")


class _Watcher:
    """One call on one model, with its lease.

    Args:
        context: the model, and what actions on it need.
        lease: lease of the model.
        secret: secret of the webhook; None without one.
    """

    def __init__(self, context: WatchContext, lease: HeldLease, secret: str | None) -> None:
        self.context, self.live, self.lease = context, context.live, lease
        self.settings, self.rules = context.settings, context.policy.rules
        self.record = Retraining.from_json(context.run.load())
        self.notifier = Notifier(context, secret, lease.check)
        self.changes = list[str]()

    def run(self) -> WatchResult:
        """Monitor, then act until nothing is due."""
        measured = self._measure()
        observed = observe(self.context, measured, self.record.labels_until)
        # first, so that labels that arrived since the last call answer a request in time
        self._save(advance(self.record, observed, time.time()))
        elapsed = elapse(self.record, self.rules, time.time())
        if elapsed.sequence != self.record.sequence:
            self._save(elapsed)
            self._save(advance(self.record, observed, time.time()))
        text = self._act()
        self._report(measured)
        return WatchResult(
            self.live.model,
            str(self.record.state),
            tuple(self.changes),
            text,
            self.record.outcome,
            self.record.version,
            tuple(each.name for each in measured.alerts),
            len(self.notifier.outbox.pending),
            self.context.run.run_id,
        )

    def _measure(self) -> LiveMeasurement:
        """Measure the live model; changed alerts are recorded and sent."""
        measured = measure_for_policy(self.context)
        self.notifier.report(measured.alerts, measured.to_json())
        record_alerts(self.context.client, measured)
        self.notifier.send()
        self.context.run.log_metrics(measured.metrics())
        return measured

    def _act(self) -> str:
        """Perform all actions that are due; return what the retraining waits for."""
        for _ in range(MAX_STEPS):
            self._save(elapse(self.record, self.rules, time.time()))
            step = next_step(self.record, self.rules, time.time())
            if step.action is None:
                return step.text
            self._save(begin(self.record, step.action, time.time()))
            event = self._perform(step.action)
            if event is None:
                return f"waits: {step.action}"
            self._save(advance(self.record, event, time.time()))
        return ""

    def _perform(self, action: Action) -> Event | None:
        """Return the event of an action; `Failed` if it raises an error."""
        began_at = time.monotonic()
        try:
            return HANDLERS[action](self.context, self.record)
        except Exception as error:
            if not isinstance(error, UserError):
                log.exception("Unexpected error, a bug in eyevsai; please report it")
            text = str(error) if isinstance(error, UserError) else f"{action}: {first_line(error)}"
            return Failed(text[:MAX_TEXT], time.monotonic() - began_at)

    def _save(self, record: Retraining) -> None:
        """Store a changed record; a change of state is logged and audited."""
        if record.sequence == self.record.sequence:
            return
        self.lease.check()
        record = replace(record, outcome=record.outcome[:MAX_TEXT], error=record.error[:MAX_TEXT])
        before, details = self.record.state, describe(record)
        if is_failure := record.state in (State.FAILED, State.STOPPED):
            alert = Alert(RETRAINING, PAGE, details)
            self.notifier.post([alert], {"version": self.live.number})
        with self.context.job.stop.shielded():
            unsent = self.notifier.to_json() if is_failure else None
            self.context.run.save(record.to_json(), str(record.state), details, unsent)
            self.record = record
            if record.state is not before:
                change = f"{before} -> {record.state}"
                self.changes.append(change)
                log.info("%s: %s. %s", self.live.model, change, details)
                self._audit(change, details)
        if is_failure:
            self.notifier.send()

    def _audit(self, change: str, details: str) -> None:
        model = self.live.model
        versions = [self.live.number, self.record.version]
        listed = ", ".join(str(each) for each in versions if each is not None)
        reason = f"{change}: {details}" if details else change
        if Reason.HAND in self.record.reasons and self.settings.reason:
            reason += f" ({self.settings.reason})"
        tags = {model_tag(model): listed, "model": model, "reason": reason}
        with recording_audit(self.context.client, AUDIT, f"{model}: {change}", tags):
            pass

    def _report(self, measured: LiveMeasurement) -> None:
        """Write the gauges of monitoring and retraining, if they are wanted."""
        if self.settings.metrics_file is None:
            return
        states = [str(each) for each in State]
        gauges = list_gauges(measured) + list_state_gauges(
            self.live.model, str(self.record.state), states, self.record.failures
        )
        write_gauges(self.settings.metrics_file, gauges, HELP)
