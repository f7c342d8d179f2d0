"""The server of deploy/ refuses unsafe settings before it starts, its files have no secrets, the
images are pinned and not root, and the health check names what failed.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from eyevsai.core.settings import STATE_DIR
from eyevsai.store.run_dir import RunDir
from eyevsai.tracking.liveness import STALE_AFTER_S
from tests.conftest import ROOT, find_port
from tests.container import Ignored, Instruction, read_dockerfile, sources_of
from tests.team import HOST, SECRETS, compose_environment, load_program

DOCKERFILES = ["deploy/Dockerfile", "deploy/eyevsai.Dockerfile"]
IGNORED = Ignored((ROOT / ".dockerignore").read_text())
healthcheck = load_program("healthcheck")


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


def select(dockerfile: str, *names: str) -> list[Instruction]:
    return [each for each in read_dockerfile(ROOT / dockerfile) if each.name in names]


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_base_images_are_pinned_to_the_python_of_the_project(dockerfile: str) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    base = f"python:{pyproject['tool']['eyevsai']['conda-python']}-slim"
    assert {each.words()[0] for each in select(dockerfile, "FROM")} == {base}


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_image_is_not_root_and_its_user_is_a_number(dockerfile: str) -> None:
    last_stage = read_dockerfile(ROOT / dockerfile)
    last_stage = last_stage[max(i for i, each in enumerate(last_stage) if each.name == "FROM") :]
    users = [each.text for each in last_stage if each.name == "USER"]
    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1])
    # no command that builds the image follows it
    names = [each.name for each in last_stage]
    assert "RUN" not in names[names.index("USER") :]


def test_images_have_a_health_check() -> None:
    (check,) = select("deploy/eyevsai.Dockerfile", "HEALTHCHECK")
    *_, script = Instruction("CMD", check.text.removeprefix("CMD ")).words()
    copies = select("deploy/eyevsai.Dockerfile", "COPY")
    assert ["deploy/healthcheck.py", script] in [each.words() for each in copies]
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    assert "/health" in str(compose["services"]["mlflow"]["healthcheck"]["test"])


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_dockerfile_has_no_secret(dockerfile: str) -> None:
    for each in select(dockerfile, "ARG", "ENV"):
        assert not re.search("PASSWORD|SECRET|TOKEN|KEY|CREDENTIAL", each.text, re.IGNORECASE)
        assert not re.search(r"://[^/\s]+@", each.text)


def test_linter_accepts_the_dockerfiles_and_make_check_runs_it() -> None:
    program = Path(sys.executable).parent / "hadolint"
    linted = subprocess.run([program, *DOCKERFILES], cwd=ROOT, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    recipe = (ROOT / "Makefile").read_text().partition("\ncheck:")[2].partition("\n\n")[0]
    assert f"\thadolint {' '.join(DOCKERFILES)}" in recipe.splitlines()


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_copied_files_exist_and_are_not_ignored(dockerfile: str) -> None:
    sources = sources_of(read_dockerfile(ROOT / dockerfile))
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source not in IGNORED, source
    tracked = subprocess.run(
        ["git", "ls-files", *sources], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert [path for path in tracked if path in IGNORED] == []


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".venv/bin/python",
        "mlflow.db",
        "mlruns/1/meta.yaml",
        "tests/conftest.py",
        "data/birds/1.png",
        "deploy/.env",
        "deploy/compose.yaml",
        "constraints/lowest.txt",
        "eyevsai.egg-info/PKG-INFO",
        "eyevsai/core/__pycache__/errors.cpython-311.pyc",
    ],
)
def test_other_files_are_not_sent_to_the_daemon(path: str) -> None:
    assert path in IGNORED


def test_rules_of_dockerignore_are_applied_in_order() -> None:
    ignored = Ignored("# comment\n*\n!docs\ndocs/*.png\n**/old\n!docs/old/keep.md\n")
    assert "src/a.py" in ignored
    assert "docs/a.md" not in ignored
    assert "docs/a.png" in ignored
    assert "docs/more/a.png" not in ignored
    assert "docs/more/old/a.md" in ignored
    assert "docs/old/a.md" in ignored
    assert "docs/old/keep.md" not in ignored


def test_dockerfile_is_read_with_flags_and_continued_lines(tmp_path: Path) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(
        "# comment\nFROM a AS b\nRUN --mount=type=bind,target=/x a \\\n"
        '# comment\n    && b\n\nCOPY --from=b /x y/\nCOPY c d /e/\nCMD ["a b", "c"]\n'
    )
    instructions = read_dockerfile(path)
    assert [(each.name, each.text, dict(each.flags)) for each in instructions] == [
        ("FROM", "a AS b", {}),
        ("RUN", "a && b", {"mount": "type=bind,target=/x"}),
        ("COPY", "/x y/", {"from": "b"}),
        ("COPY", "c d /e/", {}),
        ("CMD", '["a b", "c"]', {}),
    ]
    assert instructions[-1].words() == ["a b", "c"]
    assert sources_of(instructions) == ["c", "d"]


@pytest.mark.parametrize(
    ("words", "env", "server"),
    [
        ("python /usr/local/bin/eyevsai train --data server", {}, None),
        ("python /usr/local/bin/mlflow run . -e train -P port=1", {}, None),
        ("bash -p", {}, None),
        ("python -m eyevsai ui", {}, ("127.0.0.1", 5000, "/health")),
        ("eyevsai ui --optuna --host 0.0.0.0", {}, ("127.0.0.1", 8080, "/")),
        ("/sbin/docker-init -- eyevsai ui --port=81", {}, ("127.0.0.1", 81, "/health")),
        # eyevsai ui passes its own port to MLflow
        ("eyevsai ui", {"MLFLOW_PORT": "9000"}, ("127.0.0.1", 5000, "/health")),
        ("mlflow models serve -m a -p 82 -h ::", {}, ("::1", 82, "/health")),
        ("mlflow models serve -p83", {"MLFLOW_PORT": "9"}, ("127.0.0.1", 83, "/health")),
        ("mlflow models predict -m a", {}, None),
        ("eyevsai serve m", {"MLFLOW_PORT": "9"}, ("127.0.0.1", 5080, "/v2/health/ready")),
        ("eyevsai serve m --host=0.0.0.0 --port 85", {}, ("127.0.0.1", 85, "/v2/health/ready")),
        (
            "mlflow server",
            {"MLFLOW_PORT": "84", "MLFLOW_HOST": "10.0.0.1"},
            ("10.0.0.1", 84, "/health"),
        ),
    ],
)
def test_health_check_finds_the_server_of_a_command_line(
    words: str, env: dict[str, str], server: tuple[str, int, str] | None
) -> None:
    command = healthcheck.find_command(words.split())
    assert healthcheck.find_server(command, env) == server


@contextmanager
def responding(status: int) -> Iterator[int]:
    """Serve a status on each page; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_health_check_of_a_server_requires_a_response() -> None:
    with responding(200) as port:
        assert healthcheck.check_server("127.0.0.1", port, "/health") == ""
    with responding(503) as port:
        failure = healthcheck.check_server("127.0.0.1", port, "/health")
    assert failure == f"The server is not ready: http://127.0.0.1:{port}/health: 503."
    port = find_port()
    failure = healthcheck.check_server("127.0.0.1", port, "/health")
    assert failure.startswith(f"The server is unreachable: http://127.0.0.1:{port}/health: ")


def test_health_check_of_a_job_requires_a_process_and_a_writable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    process = str(os.getpid())
    assert (healthcheck.main([process]), capsys.readouterr().out) == (0, "")
    assert list(folder.iterdir()) == []
    folder.rmdir()
    assert healthcheck.main([process]) == 1
    assert capsys.readouterr().out.startswith("The working folder is not writable: ")
    monkeypatch.chdir(tmp_path)
    assert healthcheck.main([str(2**22 + 1)]) == 1  # above the largest PID of Linux
    assert capsys.readouterr().out == "The main process (PID 4194305) does not exist.\n"


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="no /proc/locks here")
def test_health_check_of_a_job_requires_heartbeats_of_its_runs(tmp_path: Path) -> None:
    assert (healthcheck.STATE_DIR, healthcheck.STALE_AFTER_S) == (STATE_DIR, STALE_AFTER_S)
    folder, now = RunDir(tmp_path, "abc"), time.time()

    def check(age_s: float, since: float = 0.0) -> str:
        heartbeat = folder.path / "heartbeat"
        os.utime(heartbeat, (now - age_s, now - age_s))
        return str(healthcheck.check_runs(tmp_path, since))

    with folder.lock():
        assert healthcheck.check_runs(tmp_path, 0.0) == ""  # it has just begun
        folder.record_heartbeat()
        assert check(10) == ""
        assert re.fullmatch(r"Run abc recorded its last heartbeat 9\d s ago\.", check(90))
        # of an earlier process: the run is being resumed
        assert check(90, since=now - 30) == ""
    assert check(90) == ""  # the run has ended
