"""Alerts of a watcher to the webhook: sent at once, or by later calls if the receiver is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.retraining.outbox import Outbox, note_failed, note_received, post
from eyevsai.workflows.monitor.alerts import Alert
from eyevsai.workflows.monitor.live import make_message
from eyevsai.workflows.monitor.webhook import send_webhook
from eyevsai.workflows.watch.context import WatchContext

log = logging.getLogger("eyevsai")


class Notifier:
    """Outbox of the alerts of a model, stored with the state of its retraining.

    Without a webhook, nothing is posted, and what waits keeps waiting.

    Args:
        context: the model, the settings of the webhook, and the run with the state.
        secret: secret of the signature; None without a webhook.
        check: raises an error if another watcher may have taken over.
    """

    def __init__(
        self, context: WatchContext, secret: str | None, check: Callable[[], None]
    ) -> None:
        self._context, self._secret, self._check = context, secret, check
        self.outbox = Outbox() if secret is None else Outbox.from_json(context.run.load_alerts())

    def to_json(self) -> dict[str, Any] | None:
        """Return the outbox to store; None without a webhook, since it was not loaded."""
        return None if self._secret is None else self.outbox.to_json()

    def report(self, alerts: list[Alert], details: Mapping[str, Any]) -> None:
        """Add a message and store it, if there are other alerts than in the last measurement.

        The audit log cannot decide that: `monitor live` and a call without a webhook write to it
        and send nothing.

        Args:
            alerts: active alerts.
            details: JSON values of the measurement, of which the version and the risk are sent.
        """
        names = tuple(each.name for each in alerts)
        if self._secret is None or names == self.outbox.active:
            return
        self.post(alerts, details)
        self.outbox = replace(self.outbox, active=names)
        self._store()

    def post(self, alerts: list[Alert], details: Mapping[str, Any]) -> None:
        """Add a message, if there are alerts; the caller stores the outbox.

        Args:
            alerts: alerts to send.
            details: JSON values with the version and, if it was measured, the risk.
        """
        if self._secret is None or not alerts:
            return
        content, before = make_message(self._context.model, alerts, details), self.outbox
        self.outbox = post(before, content, time.time())
        self._log_lost(before)

    def send(self) -> None:
        """Send the messages that are due, the oldest first, until one is not received."""
        url = self._context.settings.webhook
        while url is not None and self._secret is not None and self.outbox.is_due(time.time()):
            before = self.outbox
            try:
                send_webhook(url, self._secret, before.pending[0].content)
            except UserError as error:
                self.outbox = note_failed(before, time.time())
                log.error("%s Later calls try again; waiting: %d.", error, len(self.outbox.pending))
                self._log_lost(before)
            else:
                self.outbox = note_received(before)
            self._store()

    def _log_lost(self, before: Outbox) -> None:
        if self.outbox.lost > before.lost:
            log.error("Messages given up: %d.", self.outbox.lost - before.lost)

    def _store(self) -> None:
        self._check()
        self._context.run.save_alerts(self.outbox.to_json())
