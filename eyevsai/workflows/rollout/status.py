"""Workflow of `rollout status`: state, evidence, servers and decisions, and the HTML page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eyevsai.core.errors import write_error
from eyevsai.core.json import to_json
from eyevsai.core.paths import expand
from eyevsai.evaluation.sequential import log_threshold
from eyevsai.rollout.controller import state_of
from eyevsai.rollout.decision import ServerReport, alarm_threshold, list_missing
from eyevsai.rollout.evidence import ALARMS, BALANCE, NO_EVIDENCE, Evidence
from eyevsai.rollout.log import Decision
from eyevsai.rollout.policy import format_share
from eyevsai.rollout.state import Phase, RolloutState
from eyevsai.workflows.rollout.session import RolloutSession, rollout_session
from eyevsai.workflows.rollout.settings import StatusSettings

NO_ROLLOUT = "none"


@dataclass(frozen=True)
class TestResult:
    """Evidence of one test, and the value at which it decides."""

    name: str
    log_e: float
    threshold: float
    is_alarm: bool  # the value ends or holds the rollout; otherwise it allows the next step


@dataclass(frozen=True)
class RolloutStatus:
    """Status of the current or last rollout of a model."""

    model: str
    state: RolloutState | None
    run_id: str
    evidence: Evidence
    tests: tuple[TestResult, ...]
    missing: tuple[str, ...]  # conditions of the next step
    servers: tuple[ServerReport, ...]
    decisions: tuple[Mapping[str, Any], ...]

    @property
    def is_active(self) -> bool:
        """True if a rollout is neither over nor missing."""
        return self.state is not None and not self.state.is_over

    @property
    def has_failed(self) -> bool:
        """True if the last rollout was rolled back, refused or aborted."""
        return self.state is not None and self.state.is_over and self.phase != Phase.PROMOTED

    @property
    def phase(self) -> str:
        """Phase of the rollout; `none` without one."""
        return NO_ROLLOUT if self.state is None else str(self.state.phase)

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        state = self.state
        values: dict[str, Any] = {"model": self.model, "phase": self.phase}
        if state is None:
            return values
        steps = [format_share(share) for share in state.policy.shares]
        return values | {
            "state": state.name,
            "hold": str(state.hold),
            "reason": state.reason,
            "candidate": state.candidate,
            "production": state.production,
            "share": state.tag().fraction,
            "step": steps[state.position] if state.position >= 0 else None,
            "steps": steps,
            "run_id": self.run_id,
            "started_at": _format_time(state.started_at),
            "requests": self.evidence.requests,
            "answers": self.evidence.answers,
            "labels": self.evidence.labels,
            "tests": to_json(self.tests),
            "missing": list(self.missing),
            "servers": to_json(self.servers),
            "decisions": list(self.decisions),
        }


def show_status(settings: StatusSettings) -> RolloutStatus:
    """Return the status of a model's rollout, and write the HTML page if `settings.page` is set.

    Raises:
        UserError: there is no such model, or the page cannot be written.
        JobError: the store or the log failed.
    """
    with rollout_session(settings) as session:
        status = read_status(session)
        if settings.page is not None:
            _write_page(expand(settings.page), session, status)
        return status


def read_status(session: RolloutSession) -> RolloutStatus:
    """Return the status of the current or last rollout, without changing anything."""
    decisions = session.controller.read_decisions()
    if not decisions:
        return RolloutStatus(session.model, None, "", NO_EVIDENCE, (), (), (), ())
    state = state_of(decisions[-1])
    seen = session.controller.observe(state)
    # the log of a rollout that is over may have been pruned
    stored = decisions[-1].content.get("evidence") if state.is_over else None
    evidence = seen.evidence if stored is None else Evidence(**stored)
    missing = [] if state.is_over else list_missing(state, seen, time.time())
    rows = [each for each in decisions if state_of(each).run_id == state.run_id]
    return RolloutStatus(
        session.model,
        state,
        state.run_id,
        evidence,
        tuple(_list_tests(state, evidence)),
        tuple(missing),
        seen.servers,
        tuple(_describe(each) for each in rows),
    )


def _list_tests(state: RolloutState, evidence: Evidence) -> list[TestResult]:
    alarm, other = alarm_threshold(state.policy), log_threshold(state.policy.alpha)
    return [
        TestResult(
            name, value, alarm if name in ALARMS else other, name in ALARMS or name == BALANCE
        )
        for name, value in evidence.log_e.items()
    ]


def _describe(decision: Decision) -> dict[str, Any]:
    state = state_of(decision)
    return {
        "seq": decision.seq,
        "at": _format_time(decision.at),
        "kind": decision.kind,
        "state": state.name,
        "reason": state.reason,
    }


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _write_page(path: Path, session: RolloutSession, status: RolloutStatus) -> None:
    """Write the HTML page of a rollout; raise UserError if it cannot be written."""
    from eyevsai.reports.page import PageOrigin
    from eyevsai.reports.rollout_page import render_rollout_page
    from eyevsai.store.ui_links import make_link, run_page

    origin, curves = PageOrigin(datetime.now().astimezone()), {}
    if status.run_id:
        run = session.writer.records.run(status.run_id)
        url = make_link(session.tracking_uri, run_page(run.info.experiment_id, status.run_id))
        origin = PageOrigin(datetime.now().astimezone(), status.run_id, url)
        curves = session.writer.records.curves(status.run_id)
    content = render_rollout_page(to_json(status), curves, origin=origin)
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise write_error(path, error, "Choose another --page.") from error
