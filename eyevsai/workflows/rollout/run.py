"""Workflows of `rollout step`, `pause`, `resume` and `abort`."""

from __future__ import annotations

import logging
import time

from eyevsai.core.errors import JobError, UserError
from eyevsai.core.shell import quote
from eyevsai.rollout.controller import StepResult
from eyevsai.rollout.state import Event, Kind
from eyevsai.workflows.rollout.session import RolloutSession, rollout_session
from eyevsai.workflows.rollout.settings import EventSettings, StepSettings
from eyevsai.workflows.rollout.status import RolloutStatus, read_status

log = logging.getLogger("eyevsai")


def step(settings: StepSettings) -> RolloutStatus:
    """Look at a rollout once, or until it ends, and return its status.

    Raises:
        UserError: there is no such model.
        JobError: the store or the log failed; without `settings.once` it looks again instead.
    """
    with rollout_session(settings) as session:
        if settings.once:
            _look(session)
        else:
            follow(session, settings.every_s)
        return read_status(session)


def submit(settings: EventSettings, kind: Kind) -> RolloutStatus:
    """Pause, resume or abort a rollout, and return its status.

    Args:
        settings: model and reason.
        kind: PAUSE, RESUME or ABORT.

    Raises:
        UserError: there is no rollout, or the event is not possible in its state.
        JobError: the store or the log failed, or another controller is deciding.
    """
    with rollout_session(settings) as session:
        reason = settings.reason or f"{kind} by a person"
        with session.stop.shielded():
            if session.controller.submit(Event(kind, reason)) is None:
                raise UserError(
                    f"{session.model} has no rollout. Start one: eyevsai rollout start "
                    f"{quote(session.model)} --version N"
                )
        return read_status(session)


def follow(session: RolloutSession, every_s: float) -> None:
    """Look at a rollout until it ends; failures of the store and the log are logged and retried.

    Args:
        session: session of the command.
        every_s: seconds between two looks.
    """
    reported = ""
    while True:
        try:
            result = _look(session)
            reported = _report(session, result, reported)
            if result.state is None or result.state.is_over:
                return
        except JobError as error:
            text = f"{error} The rollout stays as it is; trying again every {every_s:g} s."
            if text != reported:
                log.warning("%s", text)
            reported = text
        time.sleep(every_s)


def _look(session: RolloutSession) -> StepResult:
    """Return the result of one look, which a signal does not interrupt."""
    from eyevsai.store.backend import raising_store_errors

    with (
        session.stop.shielded(),
        raising_store_errors(session.tracking_uri, f"The rollout of {session.model}"),
    ):
        return session.controller.step()


def _report(session: RolloutSession, result: StepResult, reported: str) -> str:
    """Log that the controller waits for a person or another controller, once; return the text."""
    state, text = result.state, ""
    if state is not None and state.hold and not state.is_over:
        name = quote(session.model)
        text = (
            f"The rollout is {state.hold}: {state.reason}. Continue with eyevsai rollout resume "
            f"{name}, or end it with eyevsai rollout abort {name}."
        )
    elif not result.is_leader:
        text = "Another controller is deciding on this rollout."
    if text and text != reported:
        log.warning("%s", text)
    return text
