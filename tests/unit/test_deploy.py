"""The server of deploy/ refuses unsafe settings before it starts, and its files have no secrets."""

from __future__ import annotations

import os
import re
import runpy
import tomllib
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.team import HOST, SECRETS, compose_environment


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"MLFLOW_AUTH_ADMIN_PASSWORD": ""}, "MLFLOW_AUTH_ADMIN_PASSWORD is not set"),
        (
            {"MLFLOW_AUTH_ADMIN_PASSWORD": "password1234"},
            "MLFLOW_AUTH_ADMIN_PASSWORD is a published",
        ),
        (
            {"MLFLOW_AUTH_ADMIN_PASSWORD": "elevenchars"},
            "MLFLOW_AUTH_ADMIN_PASSWORD has fewer than 12",
        ),
        ({"MLFLOW_FLASK_SERVER_SECRET_KEY": ""}, "MLFLOW_FLASK_SERVER_SECRET_KEY is not set"),
        (
            {"MLFLOW_FLASK_SERVER_SECRET_KEY": "short"},
            "MLFLOW_FLASK_SERVER_SECRET_KEY has fewer than 32",
        ),
        ({"MLFLOW_SERVER_ALLOWED_HOSTS": ""}, "MLFLOW_SERVER_ALLOWED_HOSTS is not set"),
        ({"MLFLOW_SERVER_ALLOWED_HOSTS": "me, *"}, "MLFLOW_SERVER_ALLOWED_HOSTS contains '*'"),
        (
            {"MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*"},
            "CORS_ALLOWED_ORIGINS contains '*'",
        ),
        (
            {"MLFLOW_BACKEND_STORE_URI": "sqlite:///mlflow.db"},
            "MLFLOW_BACKEND_STORE_URI is not a PostgreSQL",
        ),
    ],
)
@pytest.mark.requirement(25)
def test_the_server_does_not_start_unsafe(
    tmp_path: Path,
    changed: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def start(*command: object) -> None:
        raise AssertionError("the server was started")

    monkeypatch.setattr(os, "execve", start)
    env = (
        compose_environment(SECRETS | {"TEAM_HOST": HOST})
        | {"EYEVSAI_STATE": str(tmp_path)}
        | changed
    )
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "deploy" / "serve.py"), run_name="__main__")
    assert ended.value.code == 2
    stderr = capsys.readouterr().err
    (mistake,) = [line for line in stderr.splitlines() if "MLFLOW_" in line]
    assert said in mistake
    assert not any(
        value in stderr
        for value in (*SECRETS.values(), *filter(None, changed.values()))
        if value != "*"
    )


def test_compose_yaml_has_no_password_and_one_version_of_mlflow() -> None:
    text = (ROOT / "deploy" / "compose.yaml").read_text()
    for name in (*SECRETS, "TEAM_HOST"):
        assert f"${{{name}:?" in text
        assert re.search(f"^{name}=$", (ROOT / "deploy" / ".env.example").read_text(), re.MULTILINE)
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (pin,) = pyproject["tool"]["eyevsai"]["conda-pins"]
    server = pyproject["project"]["optional-dependencies"]["server"]
    assert pin.replace("mlflow", "mlflow[auth]") in server
