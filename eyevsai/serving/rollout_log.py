"""Inference log as controllers and servers of a rollout use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eyevsai.inference_log.coordination import Coordination
from eyevsai.inference_log.database import Database
from eyevsai.rollout.counts import LoggedAnswer
from eyevsai.rollout.log import Decision


class StoredRolloutLog:
    """`RolloutLog` in the database of the inference log.

    Args:
        database: the log; all methods raise `LogUnavailableError` while it is unreachable.
    """

    def __init__(self, database: Database) -> None:
        self._log = Coordination(database)

    def acquire_lease(self, name: str, owner: str, ttl_s: float) -> Any | None:
        return self._log.acquire_lease(name, owner, ttl_s)

    def release_lease(self, lease: Any) -> None:
        self._log.release_lease(lease)

    def append_decision(
        self, lease: Any, topic: str, seq: int, kind: str, content: Mapping[str, Any]
    ) -> bool:
        return self._log.append_decision(lease, topic, seq, kind, content)

    def read_decisions(self, topic: str, after: int = 0) -> Sequence[Decision]:
        return self._log.read_decisions(topic, after)

    def report_server(self, server_id: str, model: str, content: Mapping[str, Any]) -> None:
        self._log.report_server(server_id, model, content)

    def read_servers(self, model: str, max_age_s: float) -> list[tuple[str, Mapping[str, Any]]]:
        reports = self._log.read_servers(model, max_age_s)
        return [(server, content) for server, _, content in reports]

    def read_answers(self, model: str, steps: Sequence[str]) -> Iterator[LoggedAnswer]:
        return (LoggedAnswer(*row) for row in self._log.read_rollout_answers(model, steps))

    def read_labels(self, model: str, steps: Sequence[str]) -> Mapping[str, str]:
        return dict(self._log.read_rollout_labels(model, steps))

    def recent_model_ms(self, model: str, version: int) -> list[float]:
        return self._log.recent_model_ms(model, version)
