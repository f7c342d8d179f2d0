"""What commands set for MLflow before it is imported."""

from __future__ import annotations

import os

import pytest

from eyevsai.core.logging import quiet_mlflow


def test_telemetry_of_mlflow_is_off_unless_the_user_has_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for given, expected in ((None, "true"), ("false", "false")):
        monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
        if given:
            monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", given)
        quiet_mlflow()
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == expected
