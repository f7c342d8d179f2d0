from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from eyevsai.core.errors import UserError
from eyevsai.store.backend import open_store
from eyevsai.store.uris import find_store, mask_password
from tests.conftest import TINY, TINY_NETWORK
from tests.forks import join_forks, start_fork
from tests.invoke import invoke


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
        ("databricks", "unsupported scheme databricks"),
        ("databricks://profile", "unsupported scheme databricks"),
        ("htp://host:5000", "unsupported scheme htp. .* Did you mean http?"),
        ("HTTP://host:5000", "unsupported scheme HTTP. .* Did you mean http?"),
        ("postgres://u:secret@host/x", "Did you mean postgresql?"),
        ("127.0.0.1:5000", "no scheme. Set MLFLOW_TRACKING_URI to http://127.0.0.1:5000"),
        ("localhost:5000", "no scheme. Set MLFLOW_TRACKING_URI to http://localhost:5000"),
        ("127.0.0.1", "no scheme. Set MLFLOW_TRACKING_URI to http://127.0.0.1"),
        ("localhost/", "no scheme. Set MLFLOW_TRACKING_URI to http://localhost/"),
        ("http:/host:5000", "has no host"),
        ("mlflow.db", "no scheme. Set MLFLOW_TRACKING_URI to sqlite:////"),
        ("sqlite:///", "sqlite:/// names no file. Set MLFLOW_TRACKING_URI to sqlite:///mlflow.db"),
        ("sqlite:mlflow.db", "names no file"),
        ("sqlite://mlflow.db", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////tmp", "names a folder. .* sqlite:////tmp/mlflow.db"),
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


def write_file_store(folder: Path) -> None:
    """Write the file by which MLflow recognises a plain-file store, and selects it by default."""
    (folder / "0").mkdir(parents=True)
    (folder / "0" / "meta.yaml").write_text("name: Default")


@pytest.mark.parametrize("command", ["train", "tune", "evaluate", "registry", "sync", "doctor"])
def test_file_store_in_the_folder_is_named_with_the_ways_out(
    tmp_path: Path, stripes: Path, command: str
) -> None:
    write_file_store(tmp_path / "mlruns")
    words = {
        "train": ("--data", str(stripes), *TINY),
        "tune": ("--data", str(stripes), *TINY_NETWORK),
        "evaluate": ("--model-uri", "models:/m/1"),
        "registry": ("status",),
    }.get(command, ())
    result = invoke(tmp_path, command, *words, code=None)
    text = result.stdout + result.stderr
    assert result.returncode
    assert f"The store {tmp_path / 'mlruns'} is a plain-file store" in text
    assert "set MLFLOW_TRACKING_URI to sqlite:///mlflow.db" in text
    assert "mlflow migrate-filestore --source . --target sqlite:///mlflow.db" in text
    assert "in another folder" in text
    assert "Unset" not in text
    assert not list(tmp_path.glob("mlflow.db*"))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"  # MLflow caches stores by relative URIs, too
    invoke(tmp_path, "registry", "status", MLFLOW_TRACKING_URI=uri)


def test_migration_is_never_told_to_replace_a_database(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file_store(workplace / "mlruns")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(UserError) as caught:  # MLflow prefers the folder to mlflow.db
        open_store()
    assert "the existing mlflow.db" in str(caught.value)
    assert "--target sqlite:///migrated.db" in str(caught.value)


def test_file_store_elsewhere_is_migrated_from_there(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file_store(workplace / "old runs" / "mlruns")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (workplace / "old runs" / "mlruns").as_uri())
    with pytest.raises(UserError, match=f"--source '{workplace}/old runs/mlruns'"):
        open_store()


def test_folder_without_experiments_is_no_file_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".trash", "0", "models"):
        (tmp_path / "mlruns" / name).mkdir(parents=True)
    assert find_store() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlruns")
    with pytest.raises(UserError, match=r"(?s)Choose one.*unset MLFLOW") as caught:
        find_store()
    assert "by default" not in str(caught.value)


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
