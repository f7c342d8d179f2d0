from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError, TerminationRequested, UserError
from eyevsai.store.run_dir import RunDir, list_run_dirs
from eyevsai.tracking import finished_runs, run_lifecycle, system_metrics
from eyevsai.tracking import run as tracked
from eyevsai.tracking.run import SyncError
from eyevsai.tracking.run_lifecycle import start_run
from eyevsai.tracking.write_queue import WriteQueue
from eyevsai.workflows import shutdown
from eyevsai.workflows.shutdown import ShutdownHandler
from tests.conftest import experiments


def statuses() -> list[str]:
    return [run.info.status for run in MlflowClient().search_runs(experiments())]


def log_a_little(
    uri: str, workplace: Path, tag: str = "tag", stop: CancellationToken | None = None
) -> None:
    with start_run(uri, "little", {}, workplace / "state", stop=stop) as run:
        run.log_text("a.txt", "text")
        run.log_metrics({"loss": 1.0})
        run.set_tags({tag: "x"})
        run.flush()


def test_a_run_that_the_store_could_not_be_told_is_said_and_told_later(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = os.environ["MLFLOW_TRACKING_URI"]

    def refuse(*arguments: object) -> None:
        raise OSError("no space left on device")

    for module in (run_lifecycle, tracked):
        monkeypatch.setattr(module, "FLUSH_TIMEOUT_S", 0.5)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", refuse)
        with pytest.raises(SyncError, match="eyevsai sync") as caught:
            log_a_little(uri, workplace)
        assert caught.value.exit_code == 3
    assert statuses() == ["RUNNING"]
    (folder,) = list_run_dirs(workplace / "state")
    assert finished_runs.flush_run(uri, folder, 10) == 0
    assert statuses() == ["FINISHED"]
    assert not folder.path.exists()
    assert MlflowClient().get_run(folder.run_id).data.metrics["loss"] == 1.0


def test_what_the_store_refuses_ends_the_run_failed(workplace: Path) -> None:
    with pytest.raises(JobError, match="rejected"):
        log_a_little(os.environ["MLFLOW_TRACKING_URI"], workplace, tag="no good name!?")
    assert statuses() == ["FAILED"]


def test_entries_of_another_store_are_kept(workplace: Path) -> None:
    folder = RunDir(workplace / "state", "ab" * 16)
    folder.path.mkdir(parents=True)
    WriteQueue(folder.path, lambda kind, arguments: None).append("tags", values={"a": "b"})
    assert finished_runs.flush_run(os.environ["MLFLOW_TRACKING_URI"], folder, 5) == 1


def test_a_wish_to_end_that_comes_while_a_run_ends_does_not_tear_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = ShutdownHandler()

    def ask(self: WriteQueue, kind: str, **arguments: object) -> None:
        if kind == "end":
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(shutdown.threading, "Timer", lambda *_: MagicTimer())
                stop.handle(signal.SIGTERM, None)  # raises at once where nothing defers it
        append(self, kind, **arguments)

    append = WriteQueue.append
    monkeypatch.setattr(WriteQueue, "append", ask)
    with pytest.raises(TerminationRequested):
        log_a_little(os.environ["MLFLOW_TRACKING_URI"], workplace, stop=stop)
    assert statuses() == ["FINISHED"]


class MagicTimer:
    daemon = False

    def start(self) -> None:
        """No job here is to be ended by force."""


def test_system_metrics_go_on_after_an_outage(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*arguments: object, **more: object) -> None:
        raise ConnectionError("nobody answers")

    name, deadline = "system/cpu_utilization_percentage", time.monotonic() + 60
    monkeypatch.setattr(system_metrics, "SYSTEM_METRICS_EVERY_S", 0.05)
    with start_run(os.environ["MLFLOW_TRACKING_URI"], "run", {}, workplace / "state") as run:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "get_run", away)
            patch.setattr(MlflowClient, "log_batch", away)
            time.sleep(0.5)
        while (
            len(MlflowClient().get_metric_history(run.run_id, name)) <= 15
            and time.monotonic() < deadline
        ):
            time.sleep(0.1)
    steps = [m.step for m in MlflowClient().get_metric_history(run.run_id, name)]
    assert steps == list(range(len(steps)))
    assert len(steps) > 15


def test_a_state_root_that_cannot_be_written_is_told_before_a_run_is_made(workplace: Path) -> None:
    (workplace / "state").write_text("")
    with pytest.raises(UserError, match="Choose another --state-dir"):
        log_a_little(os.environ["MLFLOW_TRACKING_URI"], workplace)
    assert statuses() == []
