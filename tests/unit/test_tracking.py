from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.errors import RunFailed
from eyevsai.run_folder import RunFolder, run_folders
from eyevsai.tracking import lifetime
from eyevsai.tracking.lifetime import start_run
from eyevsai.tracking.run import Unsynced


def statuses() -> list[str]:
    return [run.info.status for run in MlflowClient().search_runs(["0"])]


def log_a_little(uri: str, workplace: Path, tag: str = "tag") -> None:
    with start_run(uri, "little", {}, workplace / "state") as run:
        run.text("a.txt", "text")
        run.metrics({"loss": 1.0})
        run.tags({tag: "x"})
        run.flush()


def test_a_run_that_the_store_could_not_be_told_is_said_and_told_later(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = os.environ["MLFLOW_TRACKING_URI"]

    def refuse(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(lifetime, "PATIENCE_S", 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", refuse)
        with pytest.raises(Unsynced, match="eyevsai sync") as caught:
            log_a_little(uri, workplace)
        assert caught.value.exit_code == 3
    assert statuses() == ["RUNNING"]
    (folder,) = run_folders(workplace / "state")
    assert lifetime.sync(uri, folder, {}, 10) == 0
    assert statuses() == ["FINISHED"]
    assert not folder.path.exists()
    assert MlflowClient().get_run(folder.run_id).data.metrics["loss"] == 1.0


def test_what_the_store_refuses_ends_the_run_failed(workplace: Path) -> None:
    with pytest.raises(RunFailed, match="refused"):
        log_a_little(os.environ["MLFLOW_TRACKING_URI"], workplace, tag="no good name!?")
    assert statuses() == ["FAILED"]


def test_entries_of_another_store_are_kept(workplace: Path) -> None:
    from eyevsai.tracking.spool import Spool

    folder = RunFolder(workplace / "state", "ab" * 16)
    folder.path.mkdir(parents=True)
    Spool(folder.path, lambda kind, arguments: None).append("tags", values={"a": "b"})
    assert lifetime.sync(os.environ["MLFLOW_TRACKING_URI"], folder, {}, 5) == 1
