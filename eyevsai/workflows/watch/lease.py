"""Exclusive right of one watcher to work on a model: a file lock here, a lease among machines."""

from __future__ import annotations

import hashlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from eyevsai.core.errors import JobError
from eyevsai.core.locks import host_lock
from eyevsai.inference_log.coordination import Coordination, Lease
from eyevsai.inference_log.store import LogStore

log = logging.getLogger("eyevsai")

TTL_S, RENEW_S = 120.0, 20.0


class HeldLease:
    """Lease that a thread renews until the block that holds it ends."""

    def __init__(self, coordination: Coordination, name: str, owner: str, lease: Lease) -> None:
        self.lease = lease
        self._coordination, self._name, self._owner = coordination, name, owner
        self._is_lost, self._renewed_at = False, time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise JobError if another watcher may hold the lease by now."""
        if time.monotonic() - self._renewed_at > TTL_S - RENEW_S:
            self._renew()  # the thread may have been suspended, too
        if self._is_lost:
            raise JobError(
                f"Another watcher took over {self._name}: this one was suspended or could not "
                "reach the inference log. Nothing more is changed here."
            )

    def end(self) -> None:
        """Stop the renewal, and release the lease."""
        self._ended.set()
        self._thread.join()
        with suppress(JobError):  # it expires by itself
            self._coordination.release_lease(self.lease)

    def _keep(self) -> None:
        """Renew the lease until it ends or is lost."""
        while not self._is_lost and not self._ended.wait(RENEW_S):
            try:
                self._renew()
            except JobError as error:
                log.warning("The lease of %s cannot be renewed now: %s", self._name, error)

    def _renew(self) -> None:
        """Extend the lease, or note that it is lost; raise JobError if the log is unreachable."""
        began_at = time.monotonic()
        lease = self._coordination.acquire_lease(self._name, self._owner, TTL_S)
        if lease is None or lease.fence != self.lease.fence:
            self._is_lost = True
        else:
            self._renewed_at = began_at


@contextmanager
def holding(store: LogStore, tracking_uri: str, model: str) -> Iterator[HeldLease | None]:
    """Yield the lease of a model, or None if another watcher holds it.

    The kernel releases the file lock of a process that was killed, so that the next call on this
    machine continues at once. On other machines, it continues when the lease has expired.

    Args:
        store: inference log, which has the lease.
        tracking_uri: store of the model.
        model: name of the registered model.
    """
    digest = hashlib.sha256(f"{tracking_uri}\n{model}".encode()).hexdigest()[:16]
    lock = host_lock(f"watch-{digest}")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield None
        return
    try:
        coordination, name = Coordination(store), f"retraining/{model}"
        owner = _describe_owner(lock)
        lease = coordination.acquire_lease(name, owner, TTL_S)
        if lease is None:
            yield None
            return
        renewed = HeldLease(coordination, name, owner, lease)
        try:
            yield renewed
        finally:
            renewed.end()
    finally:
        lock.release()


def _describe_owner(lock: FileLock) -> str:
    """Return the owner of leases of this machine: all of its watchers use the same file lock."""
    status = Path(lock.lock_file).stat()
    return f"{socket.gethostname()}:{status.st_dev}:{status.st_ino}"
