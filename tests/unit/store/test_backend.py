from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from eyevsai.core.errors import UserError
from eyevsai.store.backend import open_store
from eyevsai.store.uris import mask_password
from tests.forks import join_forks, start_fork


def open_a_new_store(uri: str) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    assert open_store() == uri


@pytest.mark.processes("a race for a store that is not there yet")
@pytest.mark.requirement(2)
def test_processes_that_start_together_share_one_fresh_store(tmp_path: Path) -> None:
    import mlflow  # noqa: F401, once for all forks

    uri = f"sqlite:///{tmp_path / 'new.db'}"
    assert join_forks([start_fork(open_a_new_store, uri) for _ in range(3)]) == [0, 0, 0]
    with sqlite3.connect(tmp_path / "new.db") as database:
        assert database.execute("select count(*) from experiments").fetchone() == (1,)
    database.close()


@pytest.mark.parametrize(
    ("revision", "message"),
    [("ffff00001111", "newer MLflow"), ("0a8213491aaa", "mlflow db upgrade")],
)
def test_a_store_of_another_mlflow_says_what_to_do(
    workplace: Path, revision: str, message: str
) -> None:
    with sqlite3.connect(workplace / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = ?", [revision])
    database.close()
    with pytest.raises(UserError, match=message):
        open_store()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:////proc/mlflow.db", "Cannot write /proc/mlflow.db: .*MLFLOW_TRACKING_URI"),
        ("sqlite:////nowhere/mlflow.db", "No such file or directory"),
        ("mlruns", "plain-file store"),
        ("file:///tmp/mlruns", "plain-file store"),
        ("ftp://x", "unsupported scheme ftp. Set MLFLOW_TRACKING_URI"),
        ("postgresql://u:secret@127.0.0.1:1/x", "cannot be opened"),
        ("http://127.0.0.1:1", "The tracking server http://127.0.0.1:1 is unreachable: .*refused"),
        ("http://u:secret@127.0.0.1:1", "MLFLOW_TRACKING_PASSWORD"),
        ("https://secret@host", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_store_that_cannot_be_opened_is_named(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, uri: str, message: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=message) as caught:
        open_store()
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_said(workplace: Path) -> None:
    (workplace / "mlflow.db").write_bytes(b"not a database, but long enough to be read as one" * 20)
    with pytest.raises(UserError, match="cannot be opened"):
        open_store()


def test_passwords_are_never_shown() -> None:
    assert mask_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert mask_password("https://me:secret@host:1/x") == "https://***@host:1/x"
    assert (
        mask_password("request to http://secret@host/x failed")
        == "request to http://***@host/x failed"
    )
    assert mask_password("http://127.0.0.1:5000") == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:secret@host/mlflow",
        "postgresql://host/mlflow?user=u&password=secret&sslmode=require",
    ],
)
def test_a_password_is_never_shown(uri: str) -> None:
    assert "secret" not in mask_password(uri)
    assert "mlflow" in mask_password(uri)
