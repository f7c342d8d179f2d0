"""What the write queue retries, what it rejects, and what becomes of a run whose write was
rejected.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from eyevsai.core.errors import JobError
from eyevsai.store.run_dir import REJECTED, RunDir
from eyevsai.tracking import write_queue as module
from eyevsai.tracking.run import SyncError
from eyevsai.tracking.run_lifecycle import start_run
from eyevsai.tracking.write_operations import HANDLERS
from eyevsai.tracking.write_queue import WriteQueue
from tests.conftest import experiments


class EndpointConnectionError(Exception):
    """As botocore's: it derives from Exception alone."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY_AFTER_S", 0.01)


def test_unknown_error_of_an_artifact_store_is_retried(tmp_path: Path) -> None:
    tries: list[str] = []

    def flaky(kind: str, arguments: dict[str, Any]) -> None:
        tries.append(kind)
        if len(tries) < 4:
            raise EndpointConnectionError("Could not connect to the endpoint URL")

    queue = WriteQueue(tmp_path, flaky)
    queue.start()
    queue.append("model", name="model")
    assert queue.flush(5) == 0
    assert queue.rejected is None
    assert tries == ["model"] * 4


@pytest.mark.parametrize(
    "error", [MlflowException("no", INVALID_PARAMETER_VALUE), TypeError("ours"), KeyError("x")]
)
def test_rejection_and_own_defect_are_not_retried(tmp_path: Path, error: Exception) -> None:
    def reject(kind: str, arguments: dict[str, Any]) -> None:
        raise error

    queue = WriteQueue(tmp_path, reject)
    queue.start()
    queue.append("tags")
    assert queue.flush(5) == 0
    assert queue.rejected is error
    assert (tmp_path / REJECTED).is_file()


def test_version_without_a_stored_model_is_never_registered(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
        raise MlflowException("the artifact store rejects it", INVALID_PARAMETER_VALUE)

    uri = f"sqlite:///{workplace / 'mlflow.db'}"

    def train() -> None:
        monkeypatch.setitem(HANDLERS, "model", refuse)
        with start_run(uri, "run", {"eyevsai.job": "train"}, workplace / "state") as run:
            run.queue.append("model")
            run.enqueue("version", name={"dataset": "a", "model": "b", "variation": "c"}, tags={})

    with pytest.raises((SyncError, JobError), match="rejects it"):
        train()
    client = MlflowClient(tracking_uri=uri)
    assert client.search_registered_models() == []
    (found,) = client.search_runs(experiments(client))
    assert found.info.status == "FAILED"
    assert "rejects it" in found.data.tags["error"]


def test_rejection_while_the_end_drains_leaves_the_run_failed(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_late(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
        time.sleep(0.5)
        raise MlflowException("too late", INVALID_PARAMETER_VALUE)

    uri = f"sqlite:///{workplace / 'mlflow.db'}"
    monkeypatch.setitem(HANDLERS, "late", refuse_late)
    with (
        pytest.raises((SyncError, JobError), match="too late"),
        start_run(uri, "run", {}, workplace / "state") as run,
    ):
        run.enqueue("late")
    found = MlflowClient(tracking_uri=uri).get_run(run.run_id)
    assert (found.info.status, "too late" in found.data.tags["error"]) == ("FAILED", True)
    assert RunDir(workplace / "state", run.run_id).path.is_dir()


def test_reason_of_a_failure_is_logged_although_a_write_was_rejected(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
        raise MlflowException("no", INVALID_PARAMETER_VALUE)

    uri = f"sqlite:///{workplace / 'mlflow.db'}"

    def fail() -> None:
        monkeypatch.setitem(HANDLERS, "no", refuse)
        with start_run(uri, "run", {}, workplace / "state") as run:
            run.enqueue("no")
            run.queue.flush(5)
            raise ValueError("the real reason")

    with pytest.raises(ValueError, match="the real reason"):
        fail()
    (found,) = MlflowClient(tracking_uri=uri).search_runs(
        experiments(MlflowClient(tracking_uri=uri))
    )
    assert found.data.tags["error"] == "the real reason"
