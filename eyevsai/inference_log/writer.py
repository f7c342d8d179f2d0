"""Writing of the inference log by one thread, behind a bounded queue.

`put` takes microseconds and never waits. While the database is unreachable or its disk is full, the
thread retries, and records stay in memory up to a limit; then the oldest ones are dropped, counted.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from eyevsai.core.errors import UserError, first_line
from eyevsai.inference_log.batches import write_batch
from eyevsai.inference_log.ids import Identities
from eyevsai.inference_log.images import ImageSampler, make_sampler, trim_images
from eyevsai.inference_log.record_queue import REASONS, RecordQueue
from eyevsai.inference_log.records import Answer, Record
from eyevsai.inference_log.retention import Retention, prune
from eyevsai.inference_log.secret import load_secret
from eyevsai.inference_log.settings import MEBIBYTE, OFF, LogWriterSettings, log_url
from eyevsai.inference_log.store import LogStore

log = logging.getLogger("eyevsai")

INTERVAL_S = 0.5  # between batches: a SIGKILL loses less than 1 s
MAX_BYTES = 64 * MEBIBYTE  # of the queue: 60,000 answers
BATCH = 2_000  # records of a transaction, written in about 30 ms
PAUSES_S = (0.25, 0.5, 1.0, 2.0, 5.0)  # between attempts; the last one is repeated
HOUSEKEEPING_S = 600.0  # between retention and measurements of the size
REFUSED = "refused"  # result of labels that are not stored


@dataclass(frozen=True)
class WriterState:
    """State of a writer, for metrics and status pages.

    `dropped` counts records by reason (`REASONS`), `label_results` labels by (model, version,
    result). `failing_since` is the time of the first failed attempt, None while the log works.
    """

    queued: int
    queued_bytes: int
    max_bytes: int
    written: int
    dropped: Mapping[str, int]
    label_results: Mapping[tuple[str, str, str], int]
    failing_since: float | None
    error: str
    last_write: float | None
    log_bytes: int | None

    @property
    def is_failing(self) -> bool:
        """True if the last attempt failed."""
        return self.failing_since is not None

    @property
    def is_filling(self) -> bool:
        """True if the log fails and half of the queue is used: labels should be sent later."""
        return self.is_failing and self.queued_bytes > self.max_bytes / 2


class LogWriter:
    """The sink of a server's answers and labels. Its methods can be called from each thread."""

    def __init__(
        self,
        store: LogStore,
        identities: Identities,
        *,
        sampler: ImageSampler | None = None,
        retention: Retention | None = None,
        interval_s: float = INTERVAL_S,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """Start the thread.

        Args:
            store: the log; it may be unreachable.
            identities: source of ids and hashes.
            sampler: sample of images; None stores none.
            retention: limits, applied every ten minutes; None for none.
            interval_s: seconds between batches.
            max_bytes: approximate limit of the queue in memory.
        """
        self.store = store
        self.identities = identities
        self._sampler = sampler
        self._retention = retention
        self._interval_s = interval_s
        self._queue = RecordQueue(max_bytes)
        self._wake = threading.Event()
        self._failures = 0
        self._failing_since: float | None = None
        self._error = ""
        self._last_write: float | None = None
        self._log_bytes: int | None = None
        self._thread = threading.Thread(target=self._run, name="inference-log", daemon=True)
        self._thread.start()

    def put(self, record: Record | Sequence[Record], image: bytes | None = None) -> None:
        """Add records to the queue. Returns at once and raises nothing.

        Args:
            record: one or more records.
            image: the file of an answer's image, stored if it is part of the sample.
        """
        if not isinstance(record, Record):
            self._queue.put(record)
            return
        kept = None
        if image is not None and self._sampler is not None and isinstance(record, Answer):
            kept = self._sampler.select(record, image)
        self._queue.put([record] if kept is None else [record, kept])

    def count_refused(self, count: int) -> None:
        """Count labels that were refused before they reached the queue."""
        with self._queue.lock:
            self._queue.labels.add("", "", REFUSED, count)

    def state(self) -> WriterState:
        """Return the current state."""
        queue = self._queue
        with queue.lock:
            return WriterState(
                queued=len(queue),
                queued_bytes=queue.num_bytes,
                max_bytes=queue.max_bytes,
                written=queue.num_written,
                dropped={reason: queue.dropped[reason] for reason in REASONS},
                label_results=dict(queue.labels.counts),
                failing_since=self._failing_since,
                error=self._error,
                last_write=self._last_write,
                log_bytes=self._log_bytes,
            )

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until all records that were put are stored or dropped; return False on a timeout."""
        self._wake.set()
        return self._queue.wait(timeout_s)

    def close(self, timeout_s: float = 10.0) -> int:
        """Store what is queued and stop the thread; return the number of lost records.

        Args:
            timeout_s: longest time until the return, if the database is unreachable.
        """
        end = time.monotonic() + timeout_s
        self._queue.close()
        self.flush(timeout_s)
        lost = self._queue.abandon()
        self._wake.set()
        self._thread.join(max(0.0, min(1.0, end - time.monotonic())))
        if lost:
            reason = self._error or f"the database did not respond within {timeout_s:.1f} s"
            log.error("%d records of the inference log are lost: %s", lost, reason)
        self.store.close()
        return lost

    def _run(self) -> None:
        """Write batches until the writer is closed and the queue is empty."""
        next_housekeeping = time.monotonic()
        while True:
            self._wake.wait(self._pause_s())
            self._wake.clear()
            is_written = self._drain()
            if self._queue.is_closed and len(self._queue) == 0:
                return
            if is_written and time.monotonic() >= next_housekeeping and not self._queue.is_closed:
                self._keep_house()
                next_housekeeping = time.monotonic() + HOUSEKEEPING_S

    def _pause_s(self) -> float:
        if self._failures == 0:
            return 0.0 if self._queue.is_closed else self._interval_s
        if self._queue.is_closed:
            return PAUSES_S[0]
        return PAUSES_S[min(self._failures, len(PAUSES_S)) - 1]

    def _drain(self) -> bool:
        """Write the queue; return False if the database is unavailable."""
        is_full = True
        while is_full and (records := self._queue.take(BATCH)):
            is_full = len(records) == BATCH  # what arrives meanwhile waits for the next batch
            folder = None if self._sampler is None else self._sampler.folder
            try:
                outcome = write_batch(self.store, records, folder)
            except Exception as error:  # the thread has to survive all of them
                self._queue.put_back(records)
                self._fail(error)
                return False
            self._recover()
            self._queue.finish(records, outcome)
        return self._failures == 0

    def _fail(self, error: Exception) -> None:
        self._failures += 1
        self._error = first_line(error)
        if self._failing_since is None:
            self._failing_since = time.time()
            is_bug = not isinstance(error, UserError | OSError)
            log.warning(
                "%s Answers continue, and their records wait.", self._error, exc_info=is_bug
            )

    def _recover(self) -> None:
        if self._failing_since is not None:
            log.warning("The inference log %s can be used again.", self.store.title)
        self._failures, self._failing_since, self._error = 0, None, ""
        self._last_write = time.time()

    def _keep_house(self) -> None:
        """Apply the retention and measure the log, with writes in between."""
        sampler = self._sampler
        try:
            if self._retention is not None:
                folder = None if sampler is None else sampler.folder
                for _ in prune(self.store, self._retention, folder):
                    self._drain()
            if sampler is not None:
                trim_images(self.store, sampler.folder, sampler.max_bytes)
            self._log_bytes = self.store.file_bytes()
        except (UserError, OSError, SQLAlchemyError) as error:
            log.warning("The retention of the inference log failed: %s", first_line(error))


def open_writer(settings: LogWriterSettings) -> LogWriter | None:
    """Start the writer of a server; return None if its log is off.

    The database may be unreachable: records then wait in memory.

    Raises:
        UserError: the URL is invalid, or there is no secret.
    """
    if settings.log == OFF:
        return None
    store = LogStore(log_url(settings))
    secret = load_secret(settings.log_secret_file, store.path)
    sampler = make_sampler(
        store, settings.images_dir, settings.keep_images, settings.images_mb * MEBIBYTE
    )
    max_bytes = None if settings.log_mb is None else settings.log_mb * MEBIBYTE
    retention = Retention(settings.log_days, max_bytes)
    return LogWriter(store, Identities(secret), sampler=sampler, retention=retention)
