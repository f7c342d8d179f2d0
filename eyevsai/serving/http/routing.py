"""Choice of the version that answers a request. A rollout replaces the default router."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from eyevsai.serving.http.answers import PRODUCTION, Answer, NotReadyError
from eyevsai.serving.http.versions import LoadedVersion, VersionTable


@dataclass(frozen=True)
class RegistryState:
    """Result of one poll: aliases and tags of the registered model."""

    aliases: Mapping[str, int]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Route:
    """Version that answers a request.

    Attributes:
        version: the version.
        arm: arm of the answer.
        step: step of the rollout; empty without one.
        fallback: version that answers the request if `version` fails or is late; None for none.
        late_after_s: seconds after which `version` is late; None for no limit.
        shadow: version that gets the image afterwards, when the server is idle; None for none.
    """

    version: LoadedVersion
    arm: str = PRODUCTION
    step: str = ""
    fallback: LoadedVersion | None = None
    late_after_s: float | None = None
    shadow: LoadedVersion | None = None


class Router(Protocol):
    """Choice of the versions that are loaded, and of the version for each request."""

    def wanted(self, state: RegistryState) -> Mapping[str, int]:
        """Return the versions that must be loaded, by role; called after each poll.

        A role that is missing keeps its version only if `production` is missing, too: an alias that
        was deleted does not stop the server.
        """

    def apply(self, state: RegistryState) -> None:
        """Take over a state of the registry, whose versions are loaded or have failed to load."""

    def route(self, key: str | None, request_id: str) -> Route:
        """Return the route of a request; called by the event loop for each request.

        Args:
            key: key of the client, which gets the same version again; None without one.
            request_id: id of the request.

        Raises:
            NotReadyError: no version is loaded.
        """

    def on_answer(self, answer: Answer) -> None:
        """Take note of an answer, also of a failed candidate or shadow."""

    def status(self) -> Mapping[str, Any]:
        """Return values for `/v1/status`."""


class ProductionRouter:
    """Router that sends all requests to the version of an alias, or to a fixed one.

    Args:
        table: loaded versions.
        alias: alias to follow; None for a fixed version.
        number: number of the fixed version.
    """

    def __init__(
        self, table: VersionTable, alias: str | None = PRODUCTION, number: int | None = None
    ) -> None:
        self._table, self._alias, self._number = table, alias, number

    def wanted(self, state: RegistryState) -> Mapping[str, int]:
        number = self._number if self._alias is None else state.aliases.get(self._alias)
        return {} if number is None else {PRODUCTION: number}

    def apply(self, state: RegistryState) -> None:
        pass

    def route(self, key: str | None, request_id: str) -> Route:  # noqa: ARG002  # of the protocol
        version = self._table.production
        if version is None:
            raise NotReadyError("No version is loaded yet.")
        return Route(version)

    def on_answer(self, answer: Answer) -> None:
        pass

    def status(self) -> Mapping[str, Any]:
        return {"alias": self._alias, "version": self._number}
