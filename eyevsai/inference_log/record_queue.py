"""Bounded queue of records between a server and the thread that writes them."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence

from eyevsai.inference_log.batches import IMAGE, INVALID, Outcome
from eyevsai.inference_log.label_store import LabelResults
from eyevsai.inference_log.records import KeptImage, Record

QUEUE_FULL, CLOSED = "queue_full", "closed"
REASONS = (QUEUE_FULL, INVALID, IMAGE, CLOSED)  # of dropped records


class RecordQueue:
    """Queue with a limit of bytes. If it is full, images are dropped first, then the oldest.

    The limit includes the records that are being written: they come back if that fails.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.num_bytes = 0
        self.num_written = 0
        self.dropped: Counter[str] = Counter()
        self.labels = LabelResults()
        self.lock = threading.Lock()
        self.is_closed = False
        self._is_abandoned = False
        self._changed = threading.Condition(self.lock)
        self._records: deque[Record] = deque()
        self._num_images = 0
        self._num_put = 0

    def __len__(self) -> int:
        return len(self._records)

    def put(self, records: Sequence[Record]) -> None:
        """Add records. Never waits longer than another thread needs to add or take some."""
        size = num_images = 0
        for each in records:  # mostly one: generators would take longer
            size += each.memory_bytes
            num_images += isinstance(each, KeptImage)
        with self.lock:
            self._num_put += len(records)
            if self.is_closed:
                self.dropped[CLOSED] += len(records)
                return
            self._records.extend(records)
            self._num_images += num_images
            self.num_bytes += size
            if self.num_bytes > self.max_bytes:
                self._drop_oldest()

    def take(self, count: int) -> list[Record]:
        """Remove and return the oldest records, at most `count`, to be written."""
        with self.lock:
            records = [self._records.popleft() for _ in range(min(count, len(self._records)))]
            self._num_images -= sum(isinstance(each, KeptImage) for each in records)
            return records

    def put_back(self, records: Sequence[Record]) -> None:
        """Return records of `take` that could not be written."""
        with self.lock:
            if self._is_abandoned:  # they are counted as dropped
                return
            self._records.extendleft(reversed(records))
            self._num_images += sum(isinstance(each, KeptImage) for each in records)
            if self.num_bytes > self.max_bytes:
                self._drop_oldest()

    def finish(self, records: Sequence[Record], outcome: Outcome) -> None:
        """Count records of `take` that are written or invalid."""
        with self._changed:
            self.num_bytes -= sum(each.memory_bytes for each in records)
            self.num_written += len(records) - outcome.dropped.total()
            self.dropped.update(outcome.dropped)
            self.labels.update(outcome.labels)
            self._changed.notify_all()

    def close(self) -> None:
        """Count records that are put from now on as dropped."""
        with self.lock:
            self.is_closed = True

    def wait(self, timeout_s: float) -> bool:
        """Wait until the records that are put now are written or dropped; False on a timeout."""
        with self._changed:
            target = self._num_put
            return self._changed.wait_for(lambda: self._num_finished() >= target, timeout_s)

    def abandon(self) -> int:
        """Drop all that is not written; return the number of these records."""
        with self._changed:
            lost = self._num_put - self._num_finished()
            self.dropped[CLOSED] += lost
            self._records.clear()
            self._is_abandoned = True
            self._changed.notify_all()
            return lost

    def _num_finished(self) -> int:
        return self.num_written + self.dropped.total()

    def _drop_oldest(self) -> None:
        """Drop records until the queue is within its limit. The lock is held."""
        if self._num_images:
            images = [each for each in self._records if isinstance(each, KeptImage)]
            self._records = deque(each for each in self._records if not isinstance(each, KeptImage))
            self.num_bytes -= sum(each.memory_bytes for each in images)
            self.dropped[IMAGE] += len(images)
            self._num_images = 0
        while self._records and self.num_bytes > self.max_bytes:
            self.num_bytes -= self._records.popleft().memory_bytes
            self.dropped[QUEUE_FULL] += 1
        self._changed.notify_all()
