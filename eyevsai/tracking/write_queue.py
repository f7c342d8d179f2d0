"""Durable, ordered queue of MLflow calls. Training never blocks on an unreachable tracking server.

A thread applies the operations in order. Pending operations stay in the file after the process has
ended; `eyevsai sync` or the next command on this machine applies them.
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
from eyevsai.core.errors import JobError, UserError, write_error
from eyevsai.core.retry import BACKOFF_S, is_write_conflict
from eyevsai.store.run_dir import REJECTED
from eyevsai.store.uris import summarize_error

log = logging.getLogger("eyevsai")
# MLflow logs a traceback for each attempt, and the queue logs one warning
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)

OPERATIONS, OFFSET = "write_queue.jsonl", "write_queue.done"
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

PROGRAMMING_ERRORS = (  # bugs of eyevsai, which a retry does not fix
    TypeError,
    AttributeError,
    NameError,
    LookupError,
    AssertionError,
)

MERGED = "metrics"  # kind whose consecutive operations are applied in one call
MERGED_AT_MOST = 100  # operations
MERGED_EVERY_S = 1.0  # between two such calls, unless another operation or `flush` waits for them
Apply = Callable[[str, dict[str, Any]], None]


class WriteQueue:
    """Queue of operations on one run, stored in its run directory and applied by a thread.

    `apply(kind, arguments)` must be idempotent: an operation is applied twice if the process or the
    connection ended just after it. The file with the offset of the applied operations may be
    missing or outdated. An operation that raises a permanent error (`is_permanent`) is skipped, and
    the next ones are applied.

    Pending metrics are applied together, as one operation with the arguments
    `{"steps": [arguments, ...]}`, at most every `MERGED_EVERY_S`: a call delays the training by
    milliseconds, and epochs can be as short. If it is rejected, they are applied one by one.

    The constructor removes an incomplete last line of the file. Therefore the process must hold the
    lock of the run directory.

    Attributes:
        rejected: the first permanent error of an operation in this process, else None.
    """

    def __init__(self, folder: Path, apply: Apply) -> None:
        self.path = folder / OPERATIONS
        self.offset_path = folder / OFFSET
        self.apply = apply
        self.rejected: Exception | None = None
        self._accepts_after_rejection = False
        self._failing_since: float | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._is_urgent = False  # something waits until all operations are applied
        self._applied = self._read_offset()
        if self.path.exists():  # remove an incomplete last line of a process that died
            content = self.path.read_bytes()
            with open(self.path, "r+b") as stream:
                stream.truncate(content.rfind(b"\n") + 1)
        self._end = self.path.stat().st_size if self.path.exists() else 0

    def start(self) -> None:
        """Start the thread that applies pending and future operations."""
        threading.Thread(target=self._run, name="write-queue", daemon=True).start()

    def append(self, kind: str, **arguments: Any) -> None:
        """Append an operation without waiting until it is applied; its arguments are JSON values.

        Raises:
            JobError: the store rejected an earlier operation, or the file cannot be written.
            TypeError: an argument is not a JSON value.
        """
        if self.rejected is not None and not self._accepts_after_rejection:
            raise rejection_error(self.rejected) from self.rejected
        line = json.dumps([kind, arguments]).encode() + b"\n"
        try:
            with self._changed, open(self.path, "ab", buffering=0) as stream:
                if stream.write(line) < len(line):  # the disk is full after a part of the line
                    stream.truncate(self._end)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self._end += len(line)
                self._is_urgent |= kind != MERGED
                self._changed.notify_all()
        except OSError as error:
            raise write_error(self.path, error, "", JobError) from error

    def accept_after_rejection(self) -> None:
        """Accept operations although the store rejected an earlier one: those that end the run."""
        self._accepts_after_rejection = True

    def flush(self, patience_s: float, at_most_s: float = float("inf")) -> int:
        """Wait until all operations are applied, and return the number still pending.

        Rejected operations do not count as pending: check `rejected`. Call `start` before, since
        otherwise only `at_most_s` ends the wait.

        Args:
            patience_s: seconds for which the store may fail before the call gives up.
            at_most_s: maximum duration of the call in seconds.
        """
        began = time.monotonic()
        with self._changed:
            self._is_urgent = True
            self._changed.notify_all()
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
        """Return the number of pending operations."""
        if self._applied >= self._end:
            return 0
        with open(self.path, "rb") as stream:
            stream.seek(self._applied)
            return sum(1 for _ in stream)

    def close(self) -> None:
        """Stop the thread after the operation in progress, without waiting for that."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        pause, conflicts, singly_until, merge_at = RETRY_AFTER_S, 0, 0, 0.0
        while True:
            if not self._wait_for_operation(merge_at):
                return
            size, is_merged = 0, False
            try:
                kind, arguments, size = self._read_next(self._applied >= singly_until)
                merge_at = time.monotonic() + MERGED_EVERY_S
                is_merged = kind == MERGED and len(arguments["steps"]) > 1
                self.apply(kind, arguments)
            except Exception as error:
                if not size or not is_permanent(error):
                    self._record_failure(error)
                    self._wait(pause)
                    pause = min(2 * pause, RETRY_AT_MOST_S)
                    continue
                if is_write_conflict(error) and conflicts < len(BACKOFF_S):
                    self._wait(BACKOFF_S[conflicts])
                    conflicts += 1
                    continue
                if is_merged:  # one by one, so that only the rejected ones are skipped
                    singly_until, conflicts = self._applied + size, 0
                    continue
                self._record_rejection(error)
            pause, conflicts = RETRY_AFTER_S, 0
            self._advance(size)

    def _wait_for_operation(self, merge_at: float) -> bool:
        """Wait for an operation, and for more metrics until `merge_at`; False if closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._applied < self._end)
            remaining_s = merge_at - time.monotonic()
            self._changed.wait_for(lambda: self._closed or self._is_urgent, remaining_s)
            return not self._closed

    def _wait(self, pause_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=pause_s)

    def _read_next(self, merges: bool) -> tuple[str, dict[str, Any], int]:
        """Return kind and arguments of the next operation, and its bytes in the file.

        With `merges`, it consists of all consecutive metrics; otherwise of one line.
        """
        with open(self.path, "rb") as stream:
            stream.seek(self._applied)
            line = stream.readline()
            kind, arguments = json.loads(line)
            if kind != MERGED:
                return kind, arguments, len(line)
            steps, size, most = [arguments], len(line), MERGED_AT_MOST if merges else 1
            while len(steps) < most and (line := stream.readline()).endswith(b"\n"):
                kind, arguments = json.loads(line)
                if kind != MERGED:
                    break
                steps.append(arguments)
                size += len(line)
        return MERGED, {"steps": steps}, size

    def _record_rejection(self, error: Exception) -> None:
        """Record the first rejection, also in a file for the process that applies the run's end."""
        if self.rejected is None:
            self.rejected = error
            with suppress(OSError):  # a full disk
                path = self.path.with_name(REJECTED)
                path.write_text(json.dumps(summarize_error(error)), encoding="utf-8")

    def _record_failure(self, error: Exception) -> None:
        if self._failing_since is None:
            self._failing_since = time.monotonic()
            log.warning(
                "The store is unreachable, so writes are queued on this machine: %s",
                summarize_error(error),
            )

    def _advance(self, size: int) -> None:
        with self._changed:
            self._failing_since = None
            self._applied += size
            self._is_urgent &= self._applied < self._end
            with suppress(OSError):  # a full disk: the next process repeats the operation
                write_atomically(self.offset_path, str(self._applied))
            self._changed.notify_all()

    def _read_offset(self) -> int:
        """Return the number of applied bytes; 0 if the file is missing or damaged."""
        try:
            return int(self.offset_path.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0


def rejection_error(reason: object) -> JobError:
    """Return the error for a write that the store rejected."""
    return JobError(f"MLflow rejected a write: {reason}")


def is_permanent(error: Exception) -> bool:
    """Return True if a retry cannot succeed: the store rejected the request, or eyevsai has a bug.

    A UserError is permanent, too. Every other error is retried: artifact stores raise exceptions of
    their own (botocore, google.api_core, azure.core), and an operation with a permanent error is
    lost. A write conflict may have a permanent error code; the queue retries it a few times.
    """
    if isinstance(error, MlflowException):
        return error.error_code in PERMANENT_ERRORS
    return isinstance(error, (UserError, *PROGRAMMING_ERRORS)) and not isinstance(error, OSError)
