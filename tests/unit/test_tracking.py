from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.tracking.run import start_run


def test_a_run_whose_log_cannot_be_kept_ends_failed(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(MlflowClient, "log_artifact", refuse)
    with pytest.raises(OSError, match="no space"), start_run(os.environ["MLFLOW_TRACKING_URI"], "full", {}):
        pass
    assert [run.info.status for run in MlflowClient().search_runs(["0"])] == ["FAILED"]
