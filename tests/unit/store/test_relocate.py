from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from datetime import datetime, tzinfo
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.core.errors import UserError
from eyevsai.store.backend import open_store
from eyevsai.store.relocate import back_up, find_original_dir, relocate
from eyevsai.workflows.system.doctor import run_checks


def make_project(folder: Path, template: Path) -> str:
    """A project with one run that has an artifact; returns the run's id."""
    folder.mkdir(parents=True)
    store = folder / "mlflow.db"
    store.write_bytes(template.read_bytes())
    with sqlite3.connect(store) as database:
        database.execute(
            "update experiments set artifact_location = ?", [str(folder / "mlruns" / "0")]
        )
    database.close()
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    run = client.create_run("0")
    client.log_text(run.info.run_id, "text", "a.txt")
    model = client.create_logged_model("0", "model", source_run_id=run.info.run_id)
    client.finalize_logged_model(model.model_id, "READY")
    client.create_registered_model("m")
    client.create_model_version(
        "m", f"{folder}/mlruns/0/models/{model.model_id}/artifacts", run.info.run_id
    )
    elsewhere = client.create_experiment("elsewhere", "s3://bucket/mlruns/1")
    client.create_run(elsewhere)
    return str(run.info.run_id)


@pytest.mark.parametrize("name", ["before", "before it, ünd more"])
def test_a_moved_project_is_mended_after_a_copy(
    tmp_path: Path, template_store: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = make_project(tmp_path / name, template_store)
    (tmp_path / name).rename(tmp_path / "after")
    store = tmp_path / "after" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    assert any(
        "--relocate" in finding.text
        for finding in run_checks(tmp_path, tmp_path, create_store=False)
        if not finding.ok
    )
    with pytest.raises(UserError, match="doctor --relocate"):
        # or MLflow would make the old folders again
        open_store()
    done = relocate(store)
    open_store()
    assert (done.before, done.after) == (tmp_path / name, tmp_path / "after")
    assert done.backup.stat().st_size > 0
    client = MlflowClient(tracking_uri=f"sqlite:///{store}")
    assert [artifact.path for artifact in client.list_artifacts(run_id)] == ["a.txt"]
    assert Path(client.download_artifacts(run_id, "a.txt")).read_text() == "text"
    with sqlite3.connect(store) as database:
        text = "\n".join(database.iterdump())
    database.close()
    assert str(tmp_path / name) not in text
    assert "s3://bucket/mlruns/1" in text
    with pytest.raises(UserError, match="was not moved"):
        relocate(store)


def test_a_project_that_stands_where_it_was_is_left_alone(
    tmp_path: Path, template_store: Path
) -> None:
    make_project(tmp_path / "here", template_store)
    assert find_original_dir(tmp_path / "here" / "mlflow.db") is None


class StoppedClock(datetime):
    """A clock that always shows the same time."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> StoppedClock:
        return cls(2026, 3, 3, 12, 30, 15, tzinfo=tz)


def test_two_backups_of_one_second_are_two_copies(
    tmp_path: Path, template_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyevsai.store.relocate.datetime", StoppedClock)
    store = tmp_path / "mlflow.db"
    shutil.copy(template_store, store)
    first = back_up(store)
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("update experiments set name = 'renamed'")
    second = back_up(store)
    assert first.name == "mlflow.db.backup-20260303-123015"
    assert second.name == "mlflow.db.backup-20260303-123015-2"
    assert [read_experiments(path) for path in (first, second)] == [["Default"], ["renamed"]]


def read_experiments(store: Path) -> list[str]:
    with closing(sqlite3.connect(store)) as database:
        return [name for (name,) in database.execute("select name from experiments")]
