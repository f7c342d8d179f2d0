"""Durable, ordered queue of MLflow calls. Training never blocks on an unreachable tracking server.

A thread applies the operations one after another. Those that the store could not take stay in the
file after the process has ended; `eyevsai sync` or the next start applies them.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.errors import JobError, UserError, first_line, write_error
from eyevsai.core.retry import BACKOFF_S, is_write_conflict
from eyevsai.store.run_dir import REJECTED
from eyevsai.store.uris import mask_password

log = logging.getLogger("eyevsai")
# MLflow logs a traceback for each attempt; the queue logs one warning
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

OPERATIONS, DONE = "write_queue.jsonl", "write_queue.done"
RETRY_AFTER_S, RETRY_AT_MOST_S = 0.5, 10.0
PERMANENT_ERRORS = {
    "RESOURCE_DOES_NOT_EXIST",
    "INVALID_PARAMETER_VALUE",
    "PERMISSION_DENIED",
    "UNAUTHENTICATED",
    "BAD_REQUEST",
    "INVALID_STATE",
    "MALFORMED_REQUEST",
    "CUSTOMER_UNAUTHORIZED",
}

PROGRAMMING_ERRORS = (
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    AssertionError,
)  # of our own code

Apply = Callable[[str, dict[str, Any]], None]


class WriteQueue:
    """Operations on one run, appended here and applied by `apply(kind, arguments)`.

    An operation may be applied twice, when a process or a connection ended just after it: each
    must leave the same behind as once.
    """

    def __init__(self, folder: Path, apply: Apply) -> None:
        self.path = folder / OPERATIONS
        self.done_path = folder / DONE
        self.apply = apply
        self.rejected: Exception | None = None
        self._accepts_after_rejection = False
        self._failing_since: float | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._applied = self._read_done()
        if self.path.exists():  # a line that a dying process did not finish was never an operation
            content = self.path.read_bytes()
            with open(self.path, "r+b") as stream:
                stream.truncate(content.rfind(b"\n") + 1)
        self._end = self.path.stat().st_size if self.path.exists() else 0

    def start(self) -> None:
        """Begins to carry out what is there and what will be appended."""
        threading.Thread(target=self._run, name="write-queue", daemon=True).start()

    def append(self, kind: str, **arguments: Any) -> None:
        """Adds an operation; returns before it is applied.

        Raises:
            JobError: the store refused an earlier operation, or this disk is full.
        """
        if self.rejected is not None and not self._accepts_after_rejection:
            raise JobError(f"MLflow rejected what was logged: {self.rejected}") from self.rejected
        line = json.dumps([kind, arguments]).encode() + b"\n"
        try:
            with self._changed, open(self.path, "ab", buffering=0) as stream:
                if stream.write(line) < len(line):  # a disk with room for a part of it
                    stream.truncate(self._end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._end += len(line)
                self._changed.notify_all()
        except OSError as error:
            raise write_error(self.path, error, "", JobError) from error

    def accept_after_rejection(self) -> None:
        """Take operations from here on although the store rejected an earlier one: those that end
        the run.
        """
        self._accepts_after_rejection = True

    def flush(self, patience_s: float, at_most_s: float = float("inf")) -> int:
        """Wait until all is applied; give up when the store failed for `patience_s` or after
        `at_most_s`.

        Returns how many operations are left.
        """
        began = time.monotonic()
        with self._changed:
            while self._applied < self._end:
                now = time.monotonic()
                failing = (
                    0.0 if self._failing_since is None else now - max(self._failing_since, began)
                )
                if failing >= patience_s or now - began >= at_most_s:
                    break
                self._changed.wait(0.05)
        return self.pending()

    def pending(self) -> int:
        """Return the number of operations that are not applied."""
        if self._applied >= self._end:
            return 0
        with open(self.path, "rb") as stream:
            stream.seek(self._applied)
            return sum(1 for _ in stream)

    def close(self) -> None:
        """Carries out nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        pause, overtaken = RETRY_AFTER_S, 0
        while True:
            with self._changed:
                while self._applied >= self._end and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
            line = b""
            try:
                line = self._next()
                kind, arguments = json.loads(line)
                self.apply(kind, arguments)
            except Exception as error:
                if not line or not is_permanent(error):
                    self._note_failure(error)
                    self._wait(pause)
                    pause = min(2 * pause, RETRY_AT_MOST_S)
                    continue
                if is_write_conflict(error) and overtaken < len(BACKOFF_S):
                    self._wait(BACKOFF_S[overtaken])
                    overtaken += 1
                    continue
                self._note_rejection(error)
            pause, overtaken = RETRY_AFTER_S, 0
            self._advance(len(line))

    def _wait(self, pause_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=pause_s)

    def _next(self) -> bytes:
        with open(self.path, "rb") as stream:
            stream.seek(self._applied)
            return stream.readline()

    def _note_rejection(self, error: Exception) -> None:
        """Keep the first rejection: on disk too, since another process may apply the end of the
        run.
        """
        if self.rejected is None:
            self.rejected = error
            with suppress(OSError):  # a full disk
                path = self.path.with_name(REJECTED)
                path.write_text(json.dumps(_masked_line(error)), encoding="utf-8")

    def _note_failure(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            log.warning(
                "The store does not answer, so what is logged waits on this machine: %s",
                _masked_line(error),
            )

    def _advance(self, size: int) -> None:
        with self._changed:
            self._failing_since = None
            self._applied += size
            with suppress(OSError):  # a full disk: the next process will say again what was said
                write_atomically(self.done_path, str(self._applied))
            self._changed.notify_all()

    def _read_done(self) -> int:
        try:
            return int(self.done_path.read_text())
        except (OSError, ValueError):
            return 0


def _masked_line(error: Exception) -> str:
    return mask_password(first_line(error))[:200]


def is_permanent(error: Exception) -> bool:
    """Return True if a retry would change nothing: the store rejected the request, or our own code
    is wrong.

    Everything else is retried: artifact stores raise exceptions of their own (botocore,
    google.api_core, azure.core), and what is given up here is lost.
    """
    if isinstance(error, MlflowException):
        return error.error_code in PERMANENT_ERRORS
    return isinstance(error, (UserError, *PROGRAMMING_ERRORS)) and not isinstance(error, OSError)
