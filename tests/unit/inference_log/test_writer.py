"""The writer: nothing is lost or doubled, and `put` never waits."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from eyevsai.inference_log.images import ImageFolder, ImageSampler
from eyevsai.inference_log.records import Label, Version
from eyevsai.inference_log.settings import OFF, LogWriterSettings
from eyevsai.inference_log.store import LogStore
from eyevsai.inference_log.writer import LogWriter, open_writer
from tests.unit.inference_log.records import (
    CLASSES,
    IDENTITIES,
    MODEL,
    count_rows,
    make_answer,
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'log.db'}"


@contextmanager
def writing(url: str, **values: object) -> Iterator[LogWriter]:
    """A writer over a log, which is closed at the end."""
    writer = LogWriter(LogStore(url), IDENTITIES, **({"interval_s": 0.02} | values))  # type: ignore[arg-type]
    try:
        yield writer
    finally:
        writer.close(0.1)


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Let files of this process grow no further than the database is, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores SIGXFSZ
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def wait_for(condition: object, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_all_records_are_stored_when_the_writer_is_closed(url: str) -> None:
    writer = LogWriter(LogStore(url), IDENTITIES, interval_s=60.0)
    writer.put(Version(MODEL, 1, CLASSES))
    answers = [make_answer(index) for index in range(5_000)]
    for each in answers:
        writer.put(each)
    writer.put([Label(each.id, "one", "person") for each in answers[:10]])
    assert writer.close() == 0
    store = LogStore.open(url)
    assert count_rows(store, "answers") == 5_000
    assert count_rows(store, "accepted") == 10
    state = writer.state()
    assert (state.written, state.queued) == (5_011, 0)
    assert state.label_results == {(MODEL, "1", "accepted"): 10}
    writer.put(make_answer())
    assert writer.state().dropped["closed"] == 1


def test_records_are_stored_within_a_second(url: str) -> None:
    with writing(url, interval_s=0.5) as writer:
        sent = time.time()
        writer.put(make_answer())
        wait_for(lambda: writer.state().written)
        last_write = writer.state().last_write
        assert last_write is not None
        assert last_write - sent < 1.0


def test_threads_lose_nothing(url: str) -> None:
    with writing(url) as writer:

        def put() -> None:
            for index in range(500):
                writer.put(make_answer(index))

        threads = [threading.Thread(target=put) for _ in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert writer.flush(30)
        assert count_rows(writer.store, "answers") == 4_000


def test_full_disk_holds_back_no_answer(url: str, tmp_path: Path) -> None:
    with writing(url, max_bytes=200_000) as writer:
        writer.put(make_answer())
        assert writer.flush()
        with full_disk(tmp_path / "log.db"):
            start = time.monotonic()
            for index in range(1_000):
                writer.put(make_answer(index))
            assert time.monotonic() - start < 5.0
            wait_for(lambda: writer.state().is_failing)
            state = writer.state()
            assert state.queued_bytes <= 200_000
            assert state.dropped["queue_full"] > 0
            assert state.is_filling
            assert "cannot be used" in state.error
        assert writer.flush(20)
        state = writer.state()
        assert not state.is_failing
        assert state.written + state.dropped["queue_full"] == 1_001
        assert count_rows(writer.store, "answers") == state.written


def test_newest_answers_are_kept(url: str, tmp_path: Path) -> None:
    (tmp_path / "log.db").mkdir()  # no database can be here
    with writing(url, max_bytes=50_000) as writer:
        answers = [make_answer(index) for index in range(200)]
        for each in answers:
            writer.put(each)
        wait_for(lambda: writer.state().is_failing)
        (tmp_path / "log.db").rmdir()
        assert writer.flush(20)
        with writer.store.reading() as connection:
            stored = set(connection.exec_driver_sql("SELECT id FROM answers").scalars())
    assert stored == {each.id for each in answers[-len(stored) :]}
    assert 10 < len(stored) < 60


def test_lost_records_are_counted_when_the_log_stays_away(url: str, tmp_path: Path) -> None:
    (tmp_path / "log.db").mkdir()
    writer = LogWriter(LogStore(url), IDENTITIES, interval_s=0.02)
    for index in range(5):
        writer.put(make_answer(index))
    assert writer.close(0.3) == 5
    assert writer.state().dropped["closed"] == 5
    assert not writer.flush(0) or writer.state().queued == 0


def test_record_that_no_database_accepts_holds_back_no_other(url: str) -> None:
    with writing(url) as writer:
        writer.put(make_answer(width=2**40))
        writer.put(make_answer(probabilities=np.array(["no number"])))
        writer.put(make_answer(version=2**70))
        writer.put(Version(MODEL, 1, CLASSES))
        writer.put(Version(MODEL, 1, CLASSES[::-1]))
        for index in range(3):
            writer.put(make_answer(index))
        assert writer.flush()
        assert count_rows(writer.store, "answers") == 3
        assert writer.state().dropped["invalid"] == 4


def test_images_are_sampled_and_dropped_first(url: str, tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path / "images")
    sampler = ImageSampler(folder, 1.0, 1_000_000)
    with writing(url, sampler=sampler, max_bytes=100_000) as writer:
        answer = make_answer(1)
        writer.put(answer, b"the file")
        assert writer.flush()
        path = folder.path(answer.sha256 or b"")
        assert path.read_bytes() == b"the file"
        assert path.stat().st_mode & 0o077 == 0
        assert count_rows(writer.store, "images") == 1
        with full_disk(tmp_path / "log.db"):
            for index in range(2, 12):
                writer.put(make_answer(index), bytes(30_000))
            wait_for(lambda: writer.state().is_failing)
            state = writer.state()
            assert state.dropped["image"] > 0
            assert state.dropped["queue_full"] == 0
        assert writer.flush(20)
        assert count_rows(writer.store, "answers") == 11


def test_unsure_answers_are_sampled(tmp_path: Path) -> None:
    sampler = ImageSampler(ImageFolder(tmp_path), 1e-12, 1_000)
    assert sampler.select(make_answer(), b"x") is None
    kept = sampler.select(make_answer(is_unsure=True, sha256=None), b"x")
    assert kept is not None
    assert kept.reason == "uncertain"
    assert len(kept.sha256) == 32
    assert sampler.select(make_answer(is_unsure=True, shadow_of="1"), b"x") is None


def test_retention_runs_beside_the_writes(url: str) -> None:
    from eyevsai.inference_log.retention import Retention

    store = LogStore.open(url)
    store.add_answers([make_answer(index) for index in range(100)])
    time.sleep(0.01)
    with writing(url, retention=Retention(days=0.0)) as writer:
        wait_for(lambda: count_rows(store, "answers") == 0)
        wait_for(lambda: writer.state().log_bytes)
        assert not writer.state().is_failing


def test_log_can_be_off(tmp_path: Path) -> None:
    assert open_writer(LogWriterSettings(log=OFF)) is None
    writer = open_writer(LogWriterSettings(state_dir=str(tmp_path)))
    assert writer is not None
    writer.put(make_answer(probabilities=np.ones(3)))
    assert writer.close() == 0
    assert (tmp_path / "inference_log.db").exists()
