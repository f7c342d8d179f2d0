from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INVALID_PARAMETER_VALUE

from eyevsai.core.errors import JobError
from eyevsai.tracking import write_queue as module
from eyevsai.tracking.write_queue import OPERATIONS, WriteQueue


class Store:
    """Takes operations, unless it is away."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.away = False
        self.calls = 0

    def __call__(self, kind: str, arguments: dict[str, Any]) -> None:
        if self.away:
            raise ConnectionError("nobody answers")
        if kind == "refused":
            raise MlflowException("no", error_code=INVALID_PARAMETER_VALUE)
        steps = arguments.get("steps", [arguments])
        if len(steps) > 1 and any(each.get("refused") for each in steps):
            raise MlflowException("no", error_code=INVALID_PARAMETER_VALUE)
        self.calls += 1
        for each in steps:
            if each.get("refused"):
                raise MlflowException("no", error_code=INVALID_PARAMETER_VALUE)
            self.taken.append(each["number"])


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_AFTER_S", 0.01)


def test_in_order_whatever_the_store_does(tmp_path: Path) -> None:
    store = Store()
    queue = WriteQueue(tmp_path, store)
    queue.start()
    for number in range(300):
        store.away = 100 <= number < 200
        began = time.monotonic()
        queue.append("metrics", number=number)
        assert time.monotonic() - began < 1
    assert queue.flush(5) == 0
    assert store.taken == list(range(300))


def test_what_is_left_outlives_the_process(tmp_path: Path) -> None:
    store = Store()
    store.away = True
    first = WriteQueue(tmp_path, store)
    first.start()
    for number in range(10):
        first.append("metrics", number=number)
    assert first.flush(0.1) == 10
    first.close()
    with open(tmp_path / OPERATIONS, "ab") as stream:
        stream.write(b'["metrics", {"number": 10')  # the process died in the middle of a line
    store.away = False
    second = WriteQueue(tmp_path, store)
    assert second.pending() == 10
    second.start()
    second.append("metrics", number=11)
    assert second.flush(5) == 0
    assert store.taken == [*range(10), 11]
    assert WriteQueue(tmp_path, store).pending() == 0


def test_a_slow_store_is_waited_for_and_a_silent_one_is_not(tmp_path: Path) -> None:
    store = Store()

    def slow(kind: str, arguments: dict[str, Any]) -> None:
        time.sleep(0.1)
        store(kind, arguments)

    queue = WriteQueue(tmp_path, slow)
    queue.start()
    for number in range(5):
        queue.append("tags", number=number)
    assert queue.flush(0.2) == 0
    for number in range(50):
        queue.append("tags", number=number)
    assert queue.flush(10, at_most_s=0.3) > 0


def test_pending_metrics_are_applied_in_one_call(tmp_path: Path) -> None:
    store = Store()
    queue = WriteQueue(tmp_path, store)
    for number in range(50):
        queue.append("metrics", number=number)
    queue.append("tags", number=50)
    for number in range(51, 61):
        queue.append("metrics", number=number)
    queue.start()
    assert queue.flush(5) == 0
    assert store.taken == list(range(61))
    assert store.calls == 3


def test_of_merged_metrics_only_the_refused_step_is_skipped(tmp_path: Path) -> None:
    store = Store()
    queue = WriteQueue(tmp_path, store)
    for number in range(20):
        queue.append("metrics", number=number, refused=number == 7)
    queue.start()
    assert queue.flush(5) == 0
    assert store.taken == [number for number in range(20) if number != 7]
    assert queue.rejected is not None


def test_steps_that_were_merged_are_retried_on_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (0.001, 0.001))
    taken, failures = list[int](), list[int]()

    def apply(kind: str, arguments: dict[str, Any]) -> None:
        numbers = [each["number"] for each in arguments["steps"]]
        if len(numbers) > 1 or failures.count(numbers[0]) < 1:
            failures.extend(numbers[:1] if len(numbers) == 1 else [])
            raise MlflowException("UNIQUE constraint failed: metrics.key", error_code=BAD_REQUEST)
        taken.extend(numbers)

    queue = WriteQueue(tmp_path, apply)
    for number in range(5):
        queue.append("metrics", number=number)
    queue.start()
    assert queue.flush(5) == 0
    assert taken == list(range(5))
    assert queue.rejected is None


def test_a_rejection_is_raised_at_the_next_append(tmp_path: Path) -> None:
    store = Store()
    queue = WriteQueue(tmp_path, store)
    queue.start()
    queue.append("refused", number=1)
    assert queue.flush(5) == 0
    with pytest.raises(JobError, match="MLflow rejected"):
        queue.append("metrics", number=2)


def test_what_another_wrote_first_is_asked_again_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BACKOFF_S", (0.01, 0.01))
    tries = []

    def overtaken(kind: str, arguments: dict[str, Any]) -> None:
        tries.append(arguments["number"])
        if tries.count(arguments["number"]) <= arguments["times"]:
            raise MlflowException("UNIQUE constraint failed: datasets.name", error_code=BAD_REQUEST)

    queue = WriteQueue(tmp_path, overtaken)
    queue.start()
    queue.append("dataset", number=1, times=2)
    queue.append("dataset", number=2, times=2)
    assert queue.flush(5) == 0
    assert queue.rejected is None
    assert tries == [1, 1, 1, 2, 2, 2]
    queue.append("dataset", number=3, times=99)
    assert queue.flush(5) == 0
    assert tries[6:] == [3, 3, 3]
    with pytest.raises(JobError, match="UNIQUE"):
        queue.append("dataset", number=4, times=0)


@pytest.mark.requirement(13)
def test_a_disk_with_room_for_half_a_line_takes_none_of_it(tmp_path: Path) -> None:
    queue = WriteQueue(tmp_path, Store())
    queue.append("a", number=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (queue._end + 5, limits[1]))  # Python ignores SIGXFSZ
    try:
        with pytest.raises(JobError):
            queue.append("a", number=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert queue._end == queue.path.stat().st_size
    assert queue.pending() == 1


def test_a_store_that_went_away_is_told_once_and_without_its_password(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def nobody(kind: str, arguments: dict[str, Any]) -> None:
        raise ConnectionError("API request to http://ada:secret@host/api failed\nTraceback")

    queue = WriteQueue(tmp_path, nobody)
    queue.start()
    queue.append("metrics", number=1)
    assert queue.flush(0.2) == 1
    queue.close()
    (said,) = [record.message for record in caplog.records if "is unreachable" in record.message]
    assert said.endswith("API request to http://***@host/api failed")
