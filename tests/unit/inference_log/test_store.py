"""Storing and reading of answers."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from eyevsai.core.errors import UserError
from eyevsai.inference_log.database import LogUnavailableError
from eyevsai.inference_log.ids import time_of
from eyevsai.inference_log.reading import AnswerBlock, read_answers
from eyevsai.inference_log.records import Answer, Version
from eyevsai.inference_log.schema import metadata
from eyevsai.inference_log.secret import load_secret
from eyevsai.inference_log.settings import SECRET
from eyevsai.inference_log.store import LogStore
from tests.unit.inference_log.records import CLASSES, MODEL, count_rows, make_answer, make_log


def read_all(store: LogStore, **values: object) -> AnswerBlock:
    (block,) = read_answers(store, MODEL, **values)  # type: ignore[arg-type]
    return block


def test_answers_are_read_as_they_were_written(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 7)
    block = read_all(store)
    assert list(block.id) == [each.id for each in answers]
    assert list(block.label) == [each.label for each in answers]
    assert (np.diff(block.seq) == 1).all()
    expected = np.stack([each.probabilities for each in answers]).astype(np.float16)
    np.testing.assert_array_equal(block.probabilities, expected)
    np.testing.assert_array_equal(block.statistics[3], np.arange(6) + 3)
    np.testing.assert_allclose(block.at, [each.at for each in answers], rtol=0, atol=1e-6)
    assert store.version_classes(MODEL) == {1: CLASSES}
    assert set(store.classes(MODEL)) == set(CLASSES)


def test_answer_is_stored_once(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 5)
    store.add_answers(answers)
    store.add_answers([*answers, make_answer()])
    assert count_rows(store, "answers") == 6


def test_blocks_follow_each_other(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 10)
    blocks = list(read_answers(store, MODEL, chunk=4))
    assert [len(block) for block in blocks] == [4, 4, 2]
    assert [key for block in blocks for key in block.id] == [each.id for each in answers]
    assert len(read_all(store, after_seq=int(blocks[1].seq[-1]))) == 2
    middle = time_of(answers[5].id)
    since = sum(len(block) for block in read_answers(store, MODEL, since=middle))
    until = sum(len(block) for block in read_answers(store, MODEL, until=middle))
    assert since + until == 10
    assert list(read_answers(store, MODEL, since=middle + 60)) == []
    assert list(read_answers(store, "other")) == []


def test_failed_answer_has_nan(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 1)
    failed = make_answer(
        status="failed", label=None, probability=None, probabilities=None, statistics=None,
        error="NaN\0 and \ud800" + "x" * 600,
    )  # fmt: skip
    store.add_answers([failed])
    block = read_all(store)
    assert np.isnan(block.probabilities[1]).all()
    assert np.isnan(block.statistics[1]).all()
    assert np.isnan(block.probability[1])
    assert block.label[1] is None
    assert not np.isnan(block.probabilities[0]).any()


def test_versions_with_other_classes_are_read_separately(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 2)
    store.add_versions([Version(MODEL, 2, (*CLASSES, "three"))])
    store.add_answers([make_answer(version=2, probabilities=np.full(4, 0.25))])
    with pytest.raises(UserError, match="3 and 4 values"):
        read_all(store)
    assert read_all(store, version=2).probabilities.shape == (1, 4)


def test_other_classes_of_a_logged_version_are_rejected(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path)
    store.add_versions([Version(MODEL, 1, CLASSES)])
    with pytest.raises(UserError, match="belongs to another registry"):
        store.add_versions([Version(MODEL, 1, CLASSES[::-1])])


def test_files_are_readable_for_their_owner_only(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 1)
    load_secret(None, store.path)
    files = list(tmp_path.iterdir())
    assert {each.name for each in files} >= {"log.db", "log.db-wal", "log.db.secret"}
    assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}


def test_closed_log_is_one_file(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 3)
    store.close()
    assert [each.name for each in tmp_path.iterdir()] == ["log.db"]
    with closing(sqlite3.connect(tmp_path / "log.db")) as database:
        assert database.execute("select count(*) from answers").fetchone() == (3,)


def test_secret_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = tmp_path / "log.db"
    secret = load_secret(None, database)
    assert len(secret) == 64
    assert load_secret(None, database) == secret
    file = tmp_path / "given"
    file.write_text("a secret in a file\n")
    assert load_secret(str(file), database) == b"a secret in a file"
    monkeypatch.setenv(SECRET, "a secret of the environment")
    assert load_secret(str(file), None) == b"a secret of the environment"
    monkeypatch.setenv(SECRET, "short")
    with pytest.raises(UserError, match="5 characters"):
        load_secret(None, database)


def test_postgresql_needs_a_secret() -> None:
    with pytest.raises(UserError, match="needs a secret"):
        load_secret(None, None)


@pytest.mark.parametrize(
    "url", ["mysql://host/log", "log.db", "sqlite://", "sqlite:///:memory:", "http://host/log"]
)
def test_other_urls_are_rejected(url: str) -> None:
    with pytest.raises(UserError, match="Set --log to"):
        LogStore(url)


def test_password_is_not_shown() -> None:
    with pytest.raises(UserError) as error:
        LogStore("mysql://user:password@host/log")
    assert "password" not in str(error.value)
    assert "word" not in LogStore("postgresql://user:word@host/log").title


def test_other_schema_is_rejected(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path)
    store.close()
    with closing(sqlite3.connect(tmp_path / "log.db")) as database, database:
        database.execute("update log_schema set version = 99")
    with pytest.raises(UserError, match="has schema 99"):
        LogStore.open(f"sqlite:///{tmp_path / 'log.db'}")


def test_file_that_is_no_database_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(LogUnavailableError, match="not a database"):
        LogStore.open(f"sqlite:///{path}")


def test_unreachable_database_is_named(unused_port: int) -> None:
    with pytest.raises(LogUnavailableError, match="cannot be used"):
        LogStore.open(f"postgresql://user@127.0.0.1:{unused_port}/log")


@pytest.fixture
def unused_port() -> int:
    from tests.conftest import find_port

    return find_port()


def test_columns_have_a_place_in_the_rows() -> None:
    """A column that `make_row` forgets would shift all others."""
    from eyevsai.inference_log.store import _COLUMNS, make_row

    assert len(make_row(make_answer())) == len(_COLUMNS)
    fields = set(Answer.__slots__) - {"is_unsure"}
    assert (
        fields
        == {each.name for each in _COLUMNS}
        == set(metadata.tables["answers"].columns.keys()) - {"seq"}
    )


def test_passwords_are_not_in_messages() -> None:
    for url in ("post-gres://user:secret@host/log", "mysql://user:secret@host/log"):
        with pytest.raises(UserError) as error:
            LogStore(url)
        assert "secret" not in str(error.value)
        assert "--log" in str(error.value)
