"""Follower of the registry: loads the versions that a router wants beside those that are in use.

It runs in a thread of its own: no request waits for the registry, and one version at a time is
loaded. A version that does not load is reported once, and the versions in use stay.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
from collections.abc import Mapping

from eyevsai.core.errors import UserError
from eyevsai.registry.classes import compare_classes, hash_classes, stage_prefix
from eyevsai.serving.http.answers import PRODUCTION
from eyevsai.serving.http.last_good import LastGood
from eyevsai.serving.http.metrics import Metrics
from eyevsai.serving.http.registry_source import FetchedVersion, RegistrySource
from eyevsai.serving.http.routing import RegistryState, Router
from eyevsai.serving.http.versions import LoadedVersion, VersionTable
from eyevsai.store.tags import CLASSES_SHA256

log = logging.getLogger("eyevsai")

FAILURE_PAUSE_S = 60.0  # before a version that did not load is tried again: its files may come


class Follower:
    """Keeps the loaded versions in line with the registry.

    Args:
        source: registered model.
        table: loaded versions.
        router: decides which versions are needed.
        last_good: copy of the version in production; None for no copy.
        metrics: counters of failures.
        alias: alias whose promotions may change the classes; None for a fixed version.
        has_class_consent: accept versions with other classes than those in use.
        poll_s: seconds between two polls.
    """

    def __init__(
        self,
        source: RegistrySource,
        table: VersionTable,
        router: Router,
        last_good: LastGood | None,
        metrics: Metrics,
        *,
        alias: str | None,
        has_class_consent: bool,
        poll_s: float,
    ) -> None:
        self._source, self._table, self._router = source, table, router
        self._last_good, self._metrics = last_good, metrics
        self._alias, self._has_class_consent, self._poll_s = alias, has_class_consent, poll_s
        self._is_stopped = threading.Event()
        self._is_due = threading.Event()
        self._thread: threading.Thread | None = None
        self._reported: set[str] = set()  # messages that were logged, until the cause is gone
        self._failed_at: dict[int, float] = {}
        self._fetched: dict[int, FetchedVersion] = {}  # of the loaded versions
        self._has_dropped = False  # versions were replaced, whose memory is to be returned
        self.read_at: float | None = None  # monotonic time of the last successful poll
        self.error: str | None = None  # reason why the last poll failed
        self.is_from_copy = False  # the version in use was loaded from the copy on this machine
        metrics.read_at = lambda: self.read_at

    def load_first(self) -> None:
        """Load the version to start with: that of the registry, or else the last good one.

        Raises:
            UserError: there is neither.
        """
        try:
            self._poll()
            if self._table.production is None:
                raise self._first_error()
        except UserError as error:
            version = self._last_good.load(self._source.options) if self._last_good else None
            if version is None:
                raise
            self.error, self.is_from_copy = str(error), True
            self._table.assign({PRODUCTION: version})
            self._report(
                f"{error} Version {version.number} is served, the last one that was: its copy on "
                "this machine."
            )

    def start(self) -> None:
        """Poll the registry in a thread."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, unless it waits for the registry."""
        self._is_stopped.set()
        self._is_due.set()
        if self._thread is not None:
            self._thread.join(1.0)

    def poll_now(self) -> None:
        """Poll at once, for example after a webhook of the registry."""
        self._is_due.set()

    def age_s(self) -> float | None:
        """Return the seconds since the last successful poll; None before the first one."""
        return None if self.read_at is None else time.monotonic() - self.read_at

    def _run(self) -> None:
        while not self._is_stopped.is_set():
            self._is_due.wait(self._poll_s)
            self._is_due.clear()
            if self._is_stopped.is_set():
                return
            try:
                self._poll()
            except UserError as error:
                self.error = str(error)
                self._report(f"{error} The loaded versions stay in use.")
            except Exception as error:  # the next poll must take place
                self.error = repr(error)
                log.exception("The poll of the registry failed.")

    def _poll(self) -> None:
        """Read the registry, load what is wanted, and assign the roles."""
        if self._has_dropped:  # the requests that used the version have ended since the last poll
            self._has_dropped = False
            _return_memory()
        state = self._source.read_state()
        self.read_at = time.monotonic()
        if self.error is not None:
            log.info("The registry is reachable again.")
        self.error = None
        wanted = self._router.wanted(state)
        if PRODUCTION not in wanted:
            self._report(self._missing_alias(state))
            self._router.apply(state)  # a rollout must end all the same
            return
        by_role: dict[str, LoadedVersion] = {}
        for role, number in sorted(wanted.items(), key=lambda pair: pair[0] != PRODUCTION):
            version = self._find(role, number, state)
            if version is not None:
                by_role[role] = version
            elif role == PRODUCTION and self._table.production is not None:
                by_role[role] = self._table.production
        if PRODUCTION in by_role:
            self._assign(by_role)
        self._router.apply(state)

    def _find(self, role: str, number: int, state: RegistryState) -> LoadedVersion | None:
        """Return a version for a role, loaded if necessary; None if it cannot be used."""
        version = self._table.find(number)
        if version is not None and version is self._table.production:
            return version
        failed_at = self._failed_at.get(number)
        if failed_at is not None and time.monotonic() - failed_at < FAILURE_PAUSE_S:
            return None
        try:
            if version is None:
                fetched = self._fetched[number] = self._source.load(number)
                version = fetched.version
                self._is_due.set()  # the alias may have moved meanwhile
            if role == PRODUCTION:
                self._check_classes(version, state)
        except UserError as error:
            self._failed_at[number] = time.monotonic()
            if self._table.find(number) is None:
                self._fetched.pop(number, None)  # frees its memory
            self._metrics.fail_load()
            self._table.note_failure(number, str(error))
            current = self._table.production
            kept = f" Version {current.number} stays in use." if current else ""
            self._report(f"{error}{kept}")
            return None
        self._failed_at.pop(number, None)
        self._table.note_failure(number, None)
        return version

    def _check_classes(self, version: LoadedVersion, state: RegistryState) -> None:
        """Raise UserError if classes differ from those in use, and nobody accepted that."""
        current = self._table.production
        digest = hash_classes(version.classes)
        if current is None or self._has_class_consent or hash_classes(current.classes) == digest:
            return
        promoted = state.tags.get(f"{stage_prefix(self._alias or '')}{CLASSES_SHA256}")
        if promoted == digest:  # a promotion with --class-change true recorded them
            return
        raise UserError(
            f"{version.uri} has other classes than version {current.number}: "
            f"{compare_classes(current.classes, version.classes)}. If that is intended, promote "
            "it with --class-change true, or start the server with --class-change true."
        )

    def _assign(self, by_role: Mapping[str, LoadedVersion]) -> None:
        roles = {role: version.number for role, version in by_role.items()}
        if roles == self._table.roles():
            return
        before, version = self._table.production, by_role[PRODUCTION]
        self._table.assign(by_role)
        self._has_dropped = before is not None
        self._reported.clear()
        numbers = set(roles.values())
        self._fetched = {each: self._fetched[each] for each in self._fetched if each in numbers}
        if before is version:
            return
        if before is not None:
            self.is_from_copy = False
            log.info("%s (%s) replaces version %d.", version.uri, version.format, before.number)
        if self._last_good is not None and version.number in self._fetched:
            self._last_good.save(self._fetched[version.number])

    def _missing_alias(self, state: RegistryState) -> str:
        name, current = self._source.name, self._table.production
        aliases = ", ".join(sorted(state.aliases)) or "none"
        advice = (
            f"Version {current.number} stays in use."
            if current
            else f"Promote a version, or serve one by its number: eyevsai serve {name}/VERSION."
        )
        return f"{name} has no alias {self._alias!r} (its aliases: {aliases}). {advice}"

    def _first_error(self) -> UserError:
        """Return the error for a start without a version."""
        return UserError(" ".join(sorted(self._reported)) or "No version can be served.")

    def _report(self, text: str) -> None:
        """Log a warning, once until the versions change."""
        if text in self._reported:
            return
        self._reported.add(text)
        if self._table.production is not None:  # else the caller raises it
            log.warning("%s", text)


def _return_memory() -> None:
    """Return the memory of dropped versions to the operating system; glibc would keep it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # it is missing in musl
        trim(0)
