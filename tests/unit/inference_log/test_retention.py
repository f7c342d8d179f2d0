"""Retention, deletion of a client's data, and export."""

from __future__ import annotations

import json
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from eyevsai.core.errors import UserError
from eyevsai.inference_log.export import CLASSES as CLASSES_KEY
from eyevsai.inference_log.export import export_answers
from eyevsai.inference_log.ids import time_of
from eyevsai.inference_log.images import ImageFolder, insert_images, trim_images
from eyevsai.inference_log.records import Answer, KeptImage, Label
from eyevsai.inference_log.retention import BATCH, DAY_S, Retention, forget, prune
from eyevsai.inference_log.store import LogStore
from tests.unit.inference_log.records import (
    CLASSES,
    IDENTITIES,
    MODEL,
    count_rows,
    make_answer,
    make_log,
)

TABLES = ("answers", "labels", "accepted", "suggestions", "images")


def keep_images(store: LogStore, folder: ImageFolder, answers: list[Answer]) -> None:
    """Store an image of 100 bytes for each answer."""
    kept = [KeptImage(each.sha256 or b"", each.id, "random", bytes(100)) for each in answers]
    for each in kept:
        folder.write(each)
    with store.writing() as connection:
        insert_images(connection, kept)


def list_files(folder: ImageFolder) -> list[str]:
    return sorted(each.name for each in folder.folder.rglob("*") if each.is_file())


def make_old(monkeypatch: pytest.MonkeyPatch, store: LogStore, days: float, count: int) -> None:
    """Store answers of some days ago."""
    now = time.time_ns()
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now - int(days * DAY_S * 1e9))
        from eyevsai.inference_log.ids import Identities

        past = Identities(b"a secret of the tests")
        answers = [make_answer(index, id=past.new_id()) for index in range(count)]
    store.add_answers(answers)
    store.add_labels([Label(each.id, "one", "person") for each in answers[: count // 2]])


def test_old_answers_are_deleted_with_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = make_log(tmp_path, 20)
    make_old(monkeypatch, store, 31, BATCH + 10)
    store.add_labels([Label(IDENTITIES.new_id(), "one", "person", received_at=5.0)])
    parts = list(prune(store, Retention(days=30)))
    assert sum(each.answers for each in parts) == BATCH + 10
    assert sum(each.labels for each in parts) == BATCH // 2 + 5 + 1
    assert max(each.answers for each in parts) == BATCH
    assert {name: count_rows(store, name) for name in TABLES[:3]} == {
        "answers": 20,
        "labels": 0,
        "accepted": 0,
    }
    assert next(prune(store, Retention(days=30))).answers == 0


def test_pruned_positions_are_not_used_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = make_log(tmp_path)
    make_old(monkeypatch, store, 10, 5)
    list(prune(store, Retention(days=1)))
    store.add_answers([make_answer()])
    with store.reading() as connection:
        assert connection.exec_driver_sql("SELECT seq FROM answers").scalar_one() == 6


def test_log_shrinks_to_a_size(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 6_000)
    before = store.file_bytes()
    list(prune(store, Retention(max_bytes=1_000_000)))
    assert store.file_bytes() < 1_100_000 < before
    with store.reading() as connection:
        stored = list(connection.exec_driver_sql("SELECT id FROM answers").scalars())
    assert sorted(stored) == [each.id for each in answers[-len(stored) :]]
    assert 1_000 < len(stored) < 5_000


def test_data_of_a_client_are_deleted(tmp_path: Path) -> None:
    own_hash = IDENTITIES.hash_key(MODEL, "customer 5")
    store, others = make_log(tmp_path, 3)
    own = [make_answer(index, key_hash=own_hash) for index in range(3, 5)]
    shadow = make_answer(5, shadow_of=own[0].id, arm="shadow")
    store.add_answers([*own, shadow])
    store.add_labels([Label(each.id, "one", "person") for each in (*own, *others)])
    folder = ImageFolder(tmp_path / "images")
    shared = make_answer(sha256=others[0].sha256, key_hash=own_hash)
    store.add_answers([shared])
    keep_images(store, folder, [*own, others[0], shared])
    assert forget(store, [own_hash], folder).answers == 4
    assert {name: count_rows(store, name) for name in TABLES} == {
        "answers": 3,
        "labels": 3,
        "accepted": 3,
        "suggestions": 0,
        "images": 1,
    }
    assert list_files(folder) == [(others[0].sha256 or b"").hex()]
    store.close()
    content = (tmp_path / "log.db").read_bytes()
    assert own_hash.encode() not in content
    assert own[0].id.encode() not in content
    assert others[0].id.encode() in content


def test_images_have_a_limit(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 250)
    folder = ImageFolder(tmp_path / "images")
    keep_images(store, folder, answers)
    trim_images(store, folder, 12_000)
    assert count_rows(store, "images") == len(list_files(folder)) == 50
    assert (answers[-1].sha256 or b"").hex() in list_files(folder)


def test_export_has_answers_and_labels(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 4)
    time.sleep(0.005)
    failed = make_answer(status="failed", probabilities=None, statistics=None, label=None)
    store.add_answers([failed])
    store.add_labels(
        [
            Label(answers[0].id, "two", "person:a"),
            Label(answers[1].id, "one", "person:a"),
            Label(answers[1].id, "two", "person:b"),
        ]
    )
    path = tmp_path / "export.parquet"
    path.write_text("an earlier export")
    assert export_answers(store, MODEL, path) == 5
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    table = pq.read_table(path)
    assert json.loads(table.schema.metadata[CLASSES_KEY]) == {"1": list(CLASSES)}
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == [each.id for each in (*answers, failed)]
    assert [row["true_label"] for row in rows] == ["two", None, None, None, None]
    assert [row["is_disputed"] for row in rows] == [False, True, False, False, False]
    assert rows[0]["label_source"] == "person:a"
    np.testing.assert_allclose(rows[1]["probabilities"], answers[1].probabilities, atol=1e-3)
    assert rows[4]["probabilities"] is None
    assert rows[4]["statistics"] is None
    assert rows[0]["at"].timestamp() == pytest.approx(answers[0].at, abs=1e-5)
    assert export_answers(store, MODEL, path, since=time_of(failed.id)) == 1


def test_failed_export_leaves_no_file(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 1)
    with pytest.raises(UserError, match="Choose another --file"):
        export_answers(store, MODEL, tmp_path / "missing" / "export.parquet")
    path = tmp_path / "folder"
    path.mkdir()
    with pytest.raises(UserError):
        export_answers(store, MODEL, path)
    assert [each.name for each in tmp_path.iterdir() if "folder" in each.name] == ["folder"]


def test_file_of_another_program_keeps_its_free_pages(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        connection.execute("CREATE TABLE other (value)")  # before eyevsai sets auto_vacuum
    store, _ = make_log(tmp_path, 1_000)
    deleted = [each.answers for each in prune(store, Retention(days=0.0))]  # and it ends
    assert sum(deleted) == 1_000
    with store.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA freelist_count").scalar_one() > 0
