"""Interfaces of a rollout to its surroundings: the inference log and the registry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from eyevsai.rollout.counts import LoggedAnswer
from eyevsai.rollout.evidence import Evidence
from eyevsai.rollout.state import RolloutState


class Decision(Protocol):
    """Stored decision."""

    @property
    def seq(self) -> int:
        """Number of the decision."""

    @property
    def at(self) -> float:
        """Time in seconds since 1970."""

    @property
    def kind(self) -> str:
        """Kind of the event."""

    @property
    def content(self) -> Mapping[str, Any]:
        """State after the decision, and its evidence."""


class RolloutLog(Protocol):
    """Database with answers, labels, decisions and leases, which all controllers share."""

    def acquire_lease(self, name: str, owner: str, ttl_s: float) -> Any | None:
        """Return the lease, new or extended; None while another owner holds it."""

    def release_lease(self, lease: Any) -> None:
        """Give a lease back."""

    def append_decision(
        self, lease: Any, topic: str, seq: int, kind: str, content: Mapping[str, Any]
    ) -> bool:
        """Store a decision in one transaction with the check of the lease.

        Returns:
            False if the topic has a decision with this number.
        """

    def read_decisions(self, topic: str, after: int = 0) -> Sequence[Decision]:
        """Return the decisions of a topic with numbers above `after`, in order."""

    def report_server(self, server_id: str, model: str, content: Mapping[str, Any]) -> None:
        """Replace the report of a server."""

    def read_servers(self, model: str, max_age_s: float) -> Sequence[tuple[str, Mapping[str, Any]]]:
        """Return id and content of the reports that are not older than `max_age_s`."""

    def read_answers(self, model: str, steps: Sequence[str]) -> Iterable[LoggedAnswer]:
        """Yield the answers of steps in the order of the log."""

    def read_labels(self, model: str, steps: Sequence[str]) -> Mapping[str, str]:
        """Return the accepted label of answers of steps by their id, in the order of arrival."""

    def recent_model_ms(self, model: str, version: int) -> Sequence[float]:
        """Return the model times of the newest successful answers of a version."""


class RolloutRegistry(Protocol):
    """Registry of models and the MLflow run of the rollout."""

    def aliases(self) -> Mapping[str, int]:
        """Return the aliases of the model."""

    def applied_seq(self, run_id: str) -> int:
        """Return the number of the last decision that was written completely."""

    def tag_seq(self) -> int:
        """Return the number in the tag of the model; 0 without a valid tag."""

    def create_run(self, version: int) -> str:
        """Create the run of a rollout, end those of interrupted starts, and return its id."""

    def ensure_tag(self, state: RolloutState) -> None:
        """Write the tag again if it was changed."""

    def logged_requests(self, run_id: str) -> int:
        """Return the number of requests at which evidence was last logged."""

    def log_evidence(self, state: RolloutState, evidence: Evidence, at: float) -> None:
        """Log share and evidence as metrics of the run."""

    def apply(self, state: RolloutState, pending: Sequence[Decision]) -> None:
        """Write decisions to the registry, the audit log and the run; repeatable.

        Args:
            state: state after the last of them.
            pending: decisions of the rollout that were not written completely, oldest first.
        """

    def promote(self, state: RolloutState) -> str:
        """Promote the candidate, unless it is in Production; return the reason of a refusal."""
