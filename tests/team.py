"""Servers of a team: the one of deploy/compose.yaml, with PostgreSQL and moto's S3, and a smaller
one with SQLite and a folder.
"""

from __future__ import annotations

import http.client
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from base64 import b64encode
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import yaml

from tests.conftest import ROOT, create_database, find_port
from tests.invoke import invoke, restored_process

HOST = "mlflow.example.org"
SECRETS = {
    # configparser would stumble over the last character
    "MLFLOW_AUTH_ADMIN_PASSWORD": "only-the-tests-know%",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret-key-" * 4,
    "PGPASSWORD": "database-password",
    "AWS_ACCESS_KEY_ID": "files",
    "AWS_SECRET_ACCESS_KEY": "password-of-files",
}
SERVICES = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
START_S = 120


def compose_environment(given: Mapping[str, str]) -> dict[str, str]:
    """Return the server's environment if `given` is the content of deploy/.env."""
    written = SERVICES["mlflow"]["environment"]
    return {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda match: given.get(match[1], ""), str(value))
        for name, value in written.items()
    }


def load_program(name: str) -> ModuleType:
    """Return a program of deploy/, which no package holds, as a module."""
    spec = importlib.util.spec_from_file_location(f"deploy_{name}", ROOT / "deploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Team:
    """A server with SQLite and a folder of files, what it needs, and who may use it.

    It has the command, settings and login of deploy/compose.yaml, without its PostgreSQL and S3.
    Programs run in the test's process.
    """

    folder: Path
    database: str
    port: int = field(default_factory=find_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """What members put into MLFLOW_TRACKING_URI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """Return the environment of compose.yaml with paths and ports of this test."""
        text = compose_environment(SECRETS | {"TEAM_HOST": HOST})
        text |= {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": str(self.port), "MLFLOW_WORKERS": "1"}
        text |= {"MLFLOW_ARTIFACTS_DESTINATION": str(self.folder / "artifacts")}
        text |= {
            "MLFLOW_BACKEND_STORE_URI": self.database,
            "EYEVSAI_STATE": str(self.folder / "state"),
        }
        text["MLFLOW_SERVER_ALLOWED_HOSTS"] = text["MLFLOW_SERVER_ALLOWED_HOSTS"].replace(
            ":5000", f":{self.port}"
        )
        return text

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        program = load_program("serve")  # which refuses SQLite: what comes after that is its own
        self.serve(
            "server", program.make_command(), program.make_environment(os.environ | self.settings)
        )

    def serve(
        self, name: str, command: list[str], env: Mapping[str, str], path: str = "/health"
    ) -> None:
        """Start a server in a session of its own, and wait until it answers."""
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                command, env=env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        self.processes.append(process)
        wait_for(self.port if name == "server" else int(command[-1]), path, process)

    def stop(self) -> None:
        """End what was started."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def log(self) -> Path:
        """What the server said."""
        return self.folder / "server.log"

    def run_member(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run deploy/member.py where the server runs."""
        out, err, argv = io.StringIO(), io.StringIO(), sys.argv
        sys.argv = ["member.py", *arguments]
        try:
            with (
                restored_process(self.folder, self.settings),
                warnings.catch_warnings(),
                redirect_stdout(out),
                redirect_stderr(err),
            ):
                code = load_program("member").main()
        finally:
            sys.argv = argv
        return subprocess.CompletedProcess(
            ["member.py", *arguments], code, out.getvalue(), err.getvalue()
        )

    def add_member(self, name: str) -> dict[str, str]:
        """The environment of a new member's laptop."""
        done = self.run_member(name)
        assert done.returncode == 0, done.stderr
        return {"MLFLOW_TRACKING_URI": self.uri} | dict(
            line.split("=", 1) for line in done.stdout.splitlines()
        )

    def on_laptop(
        self, folder: Path, member: dict[str, str], *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `eyevsai ARGUMENTS` where there is nothing but an address and a login."""
        folder.mkdir(exist_ok=True)
        return invoke(folder, *arguments, code=None, EYEVSAI_STATE=str(folder / "s"), **member)

    def list_files(self) -> list[str]:
        """What lies in the store of files."""
        return [str(path) for path in (self.folder / "artifacts").rglob("*") if path.is_file()]

    def ask(
        self,
        method: str,
        path: str,
        login: tuple[str, str] | None = None,
        body: str = "",
        **headers: str,
    ) -> tuple[int, str]:
        """Status and text of the answer to a request whose path is sent as it stands."""
        if login:
            headers["Authorization"] = "Basic " + b64encode(":".join(login).encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


@dataclass
class ComposeTeam(Team):
    """The server of deploy/compose.yaml, whose programs are processes here.

    Its database is PostgreSQL, and its files are stored in S3.
    """

    s3_port: int = field(default_factory=find_port)

    @property
    def settings(self) -> dict[str, str]:
        """Return the environment of compose.yaml with paths and ports of this test."""
        files = {
            "MLFLOW_ARTIFACTS_DESTINATION": compose_environment(SECRETS)[
                "MLFLOW_ARTIFACTS_DESTINATION"
            ]
        }
        return (
            super().settings
            | files
            | {"MLFLOW_WORKERS": "2", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3_port}"}
        )

    def start(self) -> None:
        """Start the store of files, make the bucket, start the server, and wait until it
        answers.
        """
        env = os.environ | self.settings
        self.serve(
            "moto",
            [sys.executable, "-m", "moto.server", "-p", str(self.s3_port)],
            env,
            "/moto-api/",
        )
        self.run(*SERVICES["bucket"]["command"][1:]).check_returncode()
        self.serve("server", [sys.executable, str(ROOT / "deploy" / "serve.py")], env)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program of deploy/ where the server runs."""
        return subprocess.run(
            [sys.executable, *command],
            env=os.environ | self.settings,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def run_member(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run deploy/member.py where the server runs."""
        return self.run(str(ROOT / "deploy" / "member.py"), *arguments)

    def on_laptop(
        self, folder: Path, member: dict[str, str], *arguments: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `eyevsai ARGUMENTS` on a machine that has nothing but an address and a login."""
        folder.mkdir(exist_ok=True)
        env = (
            os.environ
            | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "EYEVSAI_STATE": str(folder / "s")}
            | member
        )
        command = [sys.executable, "-m", "eyevsai", *arguments]
        return subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=280
        )

    def list_files(self) -> list[str]:
        """Keys in the store of files."""
        import boto3

        s3 = boto3.client(
            "s3",
            endpoint_url=self.settings["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id=SECRETS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=SECRETS["AWS_SECRET_ACCESS_KEY"],
        )
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket="mlflow")
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


ADMIN = ("admin", SECRETS["MLFLOW_AUTH_ADMIN_PASSWORD"])


def create_team_database(uri: str) -> str:
    """A new database of a user whom PostgreSQL asks for a password; returns its URI, without
    one.
    """
    import psycopg

    created = create_database(uri, f"team_{time.monotonic_ns()}")
    with psycopg.connect(created, autocommit=True) as connection:
        user = f"team_{os.getpid()}"
        connection.execute(f"create role {user} login password '{SECRETS['PGPASSWORD']}'")
        connection.execute(f"alter database {created.rpartition('/')[2]} owner to {user}")
        connection.execute(f"grant all on schema public to {user}")
        rules = Path(connection.execute("show hba_file").fetchone()[0])  # type: ignore[index]
        rules.write_text(f"host all {user} all scram-sha-256\n{rules.read_text()}")
        connection.execute("select pg_reload_conf()")
    return re.sub(r".*@", f"postgresql+psycopg://{user}@", created)


def wait_for(port: int, path: str, process: subprocess.Popen[bytes]) -> None:
    """Waits until what `process` serves answers."""
    for _ in range(START_S * 5):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        time.sleep(0.2)
    raise AssertionError(f"nothing answers on port {port}")
