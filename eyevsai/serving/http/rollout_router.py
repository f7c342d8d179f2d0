"""Router of a rollout: the split of keys, shadows, and the local stop of a candidate that fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from eyevsai.core.errors import JobError, UserError
from eyevsai.registry.rollout_tag import OFF, PREPARED, TAG, RolloutTag, parse_tag
from eyevsai.registry.rollout_tag import SHADOW as SHADOW_MODE
from eyevsai.rollout.controller import CONTROLLER
from eyevsai.rollout.decision import LIVE_S
from eyevsai.rollout.evidence import NO_EVIDENCE
from eyevsai.rollout.log import RolloutLog
from eyevsai.rollout.routing import arm_of
from eyevsai.rollout.state import Hold, Phase
from eyevsai.serving.http.answers import CANDIDATE, PRODUCTION, SHADOW, Answer, NotReadyError
from eyevsai.serving.http.metrics import Metrics
from eyevsai.serving.http.routing import RegistryState, Route
from eyevsai.serving.http.versions import LoadedVersion, VersionTable

log = logging.getLogger("eyevsai")

PREVIOUS = "previous"  # role of the version that a rollback restores
KEEP_PREVIOUS_S = 86_400.0  # for which it stays loaded after a promotion
MISSED_POLLS = 3  # after which a server counts as ended, if that is longer than LIVE_S
MAX_FAILURES = 5  # in a row, after which this server does not use the candidate any more
TIMEOUT = 504  # status of a late answer
NONE = "none"  # state of a model without a rollout
STATES = (NONE, *map(str, Phase), str(Hold.PAUSED), str(Hold.HELD))


class RolloutRouter:
    """Router that follows the rollout in the tag of a registered model.

    Without a tag, or with one that cannot be read, production answers everything.

    Args:
        table: loaded versions.
        secret: secret of all servers of the model, so that they split keys equally.
        rollout_log: log to which this server reports; without one, rollouts stay prepared.
        server_id: name of this server among those of the model.
        metrics: metrics of the server.
        poll_s: seconds between two reports.
    """

    def __init__(
        self,
        table: VersionTable,
        secret: bytes,
        rollout_log: RolloutLog | None,
        server_id: str,
        metrics: Metrics,
        *,
        poll_s: float = 0.0,
    ) -> None:
        self._table, self._secret, self._log = table, secret, rollout_log
        self._server_id, self.model = server_id, metrics.model
        self._live_s = max(LIVE_S, MISSED_POLLS * poll_s)
        self._tag: RolloutTag | None = None
        self._promoted: tuple[str, float] | None = None  # run, and time at which it was noticed
        self._failures = _FailureCount()
        self.evidence: Mapping[str, float] = dict(NO_EVIDENCE.log_e)
        self.state_name = NONE  # of the rollout, by its last decision
        self._reported: set[str] = set()
        metrics.registry.register(_RolloutCollector(self))

    @property
    def tag(self) -> RolloutTag | None:
        """Instruction that this server obeys; None without one."""
        return self._tag

    def share(self) -> float:
        """Return the share of keys that this server gives to the candidate, from 0 to 1."""
        tag = self._tag
        return 0.0 if tag is None or self._find_candidate(tag) is None else tag.fraction

    def wanted(self, state: RegistryState) -> Mapping[str, int]:
        roles = {}
        if PRODUCTION in state.aliases:
            roles[PRODUCTION] = state.aliases[PRODUCTION]
        tag = self._read_tag(state)
        if tag is None or not roles:
            return roles
        if tag.mode != OFF:
            roles[CANDIDATE] = tag.version
        elif roles[PRODUCTION] == tag.version and self._is_recent(tag):
            roles[PREVIOUS] = tag.production
        return roles

    def apply(self, state: RegistryState) -> None:
        tag = self._read_tag(state)
        if tag is not None and (self._tag is None or tag.run != self._tag.run):
            self._failures.reset()
        self._tag = tag
        if self._log is None:
            return
        try:
            self._report(self._log, tag)
        except JobError as error:  # the database is unreachable; the next poll reports
            self._warn(f"The state of this server was not reported. {error}")

    def route(self, key: str | None, request_id: str) -> Route:
        production, tag = self._table.production, self._tag
        if production is None:
            raise NotReadyError("No version is loaded yet.")
        candidate = None if tag is None else self._find_candidate(tag)
        if tag is None or candidate is None:
            return Route(production)
        if tag.mode == SHADOW_MODE:
            return Route(production, step=tag.step, shadow=candidate)
        arm = arm_of(self._secret, tag.salt, key or request_id, tag.share)
        if arm == PRODUCTION:
            return Route(production, step=tag.step)
        return Route(candidate, CANDIDATE, tag.step, production, tag.late_ms / 1000)

    def on_answer(self, answer: Answer) -> None:
        tag = self._tag
        if tag is None or answer.step != tag.step or not tag.step:
            return
        if self._failures.add(answer, tag):
            log.error(
                "Version %d failed %d times in a row: %s. This server does not use it any more.",
                tag.version,
                MAX_FAILURES,
                answer.error,
            )

    def status(self) -> Mapping[str, Any]:
        tag = self._tag
        return {
            "alias": PRODUCTION,
            "version": None,
            "rollout": None
            if tag is None
            else {
                "run": tag.run,
                "seq": tag.seq,
                "mode": tag.mode,
                "version": tag.version,
                "share": self.share(),
                "state": self.state_name,
                "stopped": self._failures.tripped,
            },
        }

    def _find_candidate(self, tag: RolloutTag) -> LoadedVersion | None:
        """Return the candidate if it may answer or shadow now; otherwise None.

        An alias that was moved by hand ends the rollout on this server at once.
        """
        candidate, production = self._table.get(CANDIDATE), self._table.production
        is_usable = (
            tag.mode not in (OFF, PREPARED)
            and not self._failures.tripped
            and candidate is not None
            and candidate.number == tag.version
            and production is not None
            and production.number == tag.production
        )
        return candidate if is_usable else None

    def _read_tag(self, state: RegistryState) -> RolloutTag | None:
        """Return the tag to obey: not an older one than before, and none that cannot be read."""
        text = state.tags.get(TAG)
        if text is None:
            return None
        try:
            tag = parse_tag(text)
        except UserError as error:
            self._warn(f"{error} Production answers all requests.")
            return None
        if self._tag is not None and tag.seq < self._tag.seq:
            self._warn(
                f"The tag {TAG} has the number {tag.seq}, below {self._tag.seq}: it is ignored."
            )
            return self._tag
        return tag

    def _is_recent(self, tag: RolloutTag) -> bool:
        """Return True for a day after a promotion was noticed."""
        if self._promoted is None or self._promoted[0] != tag.run:
            self._promoted = (tag.run, time.monotonic())
        return time.monotonic() - self._promoted[1] < KEEP_PREVIOUS_S

    def _report(self, rollout_log: RolloutLog, tag: RolloutTag | None) -> None:
        """Report to the controller, and read the state and the evidence for the metrics."""
        content: dict[str, Any] = {"run": "", "seq": 0}
        if tag is not None:
            candidate = self._table.get(CANDIDATE)
            content = {
                "run": tag.run,
                "seq": tag.seq,
                "is_loaded": candidate is not None and candidate.number == tag.version,
                "failure": self._table.failure(tag.version) or "",
                "tripped": self._failures.tripped,
            }
        content["live_s"] = self._live_s
        rollout_log.report_server(self._server_id, self.model, content)
        reports = dict(rollout_log.read_servers(self.model, LIVE_S))
        self.evidence = {**NO_EVIDENCE.log_e, **reports.get(CONTROLLER, {}).get("log_e", {})}
        after = 0 if tag is None else tag.seq - 1
        decisions = rollout_log.read_decisions(f"rollout/{self.model}", after)
        if decisions:
            state = decisions[-1].content["state"]
            self.state_name = str(state["hold"] or state["phase"])

    def _warn(self, text: str) -> None:
        """Log a warning once."""
        if text not in self._reported:
            self._reported.add(text)
            log.warning("%s", text)


@dataclass
class _FailureCount:
    """Failures of the candidate in a row; after `MAX_FAILURES`, `tripped` is the reason."""

    in_a_row: int = 0
    tripped: str = ""
    is_production_late: bool = False

    def __post_init__(self) -> None:
        self._lock = threading.Lock()  # shadows answer in other threads

    def reset(self) -> None:
        """Start anew, for another rollout."""
        with self._lock:
            self.in_a_row, self.tripped, self.is_production_late = 0, "", False

    def add(self, answer: Answer, tag: RolloutTag) -> bool:
        """Count an answer; return True if it is the last one before this server stops.

        A late answer counts unless production is as late: then the server is overloaded.
        """
        with self._lock:
            if answer.arm == PRODUCTION:
                self.is_production_late = answer.total_s * 1000 > tag.late_ms
            if answer.arm not in (CANDIDATE, SHADOW):
                return False
            if answer.outcome is not None:
                self.in_a_row = 0
            elif answer.status == TIMEOUT and self.is_production_late:
                return False
            elif answer.status >= 500:
                self.in_a_row += 1
            if self.in_a_row < MAX_FAILURES or self.tripped:
                return False
            self.tripped = f"{MAX_FAILURES} failures in a row, the last one: {answer.error}"
            return True


class _RolloutCollector(Collector):
    """Gauges of the rollout, read when they are scraped."""

    def __init__(self, router: RolloutRouter) -> None:
        self._router = router

    def collect(self) -> Iterable[Metric]:
        router = self._router
        model = router.model
        share = GaugeMetricFamily(
            "eyevsai_rollout_share",
            "Share of requests that this server gives to the candidate.",
            labels=("model",),
        )
        share.add_metric((model,), router.share())
        evidence = GaugeMetricFamily(
            "eyevsai_rollout_log_evidence",
            "Natural logarithm of the evidence of the rollout's tests.",
            labels=("model", "what"),
        )
        for what, value in router.evidence.items():
            evidence.add_metric((model, what), value)
        state = GaugeMetricFamily(
            "eyevsai_rollout_state", "1 for the state of the rollout.", labels=("model", "state")
        )
        for name in STATES:
            state.add_metric((model, name), float(name == router.state_name))
        return [share, evidence, state]
