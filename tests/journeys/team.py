"""A team's server as deploy/ ships it, with a real PostgreSQL and moto's S3."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from tests.conftest import ROOT, create_database, find_port

HOST = "mlflow.example.org"
SECRETS = {
    "MLFLOW_AUTH_ADMIN_PASSWORD": "only-the-tests-know%",  # configparser would stumble over the last character
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret-key-" * 4,
    "PGPASSWORD": "database-password",
    "AWS_ACCESS_KEY_ID": "files",
    "AWS_SECRET_ACCESS_KEY": "password-of-files",
}
RECIPE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())["services"]
START_S = 120


def recipe_environment(given: Mapping[str, str]) -> dict[str, str]:
    """What compose.yaml gives the server when deploy/.env holds `given`."""
    written = RECIPE["mlflow"]["environment"]
    return {
        name: re.sub(r"\$\{(\w+)[^}]*\}", lambda match: given.get(match[1], ""), str(value))
        for name, value in written.items()
    }


@dataclass
class Team:
    """A server, what it needs, and who may use it."""

    folder: Path
    database: str
    port: int = field(default_factory=find_port)
    s3_port: int = field(default_factory=find_port)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """What members put into MLFLOW_TRACKING_URI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """The recipe's, with the places of these tests in those of its containers."""
        text = recipe_environment(SECRETS | {"TEAM_HOST": HOST})
        text |= {"MLFLOW_HOST": "127.0.0.1", "MLFLOW_PORT": str(self.port), "MLFLOW_WORKERS": "2"}
        text |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.s3_port}", "MLFLOW_BACKEND_STORE_URI": self.database}
        text["MLFLOW_SERVER_ALLOWED_HOSTS"] = text["MLFLOW_SERVER_ALLOWED_HOSTS"].replace(":5000", f":{self.port}")
        return text | {"EYEVSAI_STATE": str(self.folder / "state")}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a program of the recipe where the server runs."""
        env = os.environ | self.settings
        return subprocess.run(
            [sys.executable, *command],
            env=env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=check,
        )

    def start(self) -> None:
        """Starts the store of files, makes the bucket, starts the server, and waits until it answers."""
        self.serve("moto", "-m", "moto.server", "-p", str(self.s3_port))
        wait_for(self.s3_port, "/moto-api/", self.processes[-1])
        self.run(*RECIPE["bucket"]["command"][1:])
        self.serve("server", str(ROOT / "deploy" / "serve.py"))
        wait_for(self.port, "/health", self.processes[-1])

    def serve(self, name: str, *command: str) -> None:
        """Starts a server with the recipe's settings, in a session of its own."""
        with open(self.folder / f"{name}.log", "w") as log:
            process = subprocess.Popen(
                [sys.executable, *command], env=os.environ | self.settings, cwd=self.folder,
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)

    def stop(self) -> None:
        """Ends what was started."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def log(self) -> Path:
        """What the server said."""
        return self.folder / "server.log"

    def add_member(self, name: str) -> dict[str, str]:
        """The environment of a new member's laptop."""
        said = self.run(str(ROOT / "deploy" / "member.py"), name).stdout
        return {"MLFLOW_TRACKING_URI": self.uri} | dict(line.split("=", 1) for line in said.splitlines())

    def list_files(self) -> list[str]:
        """Keys in the store of files."""
        import boto3

        s3 = boto3.client(
            "s3", endpoint_url=self.settings["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id=SECRETS["AWS_ACCESS_KEY_ID"], aws_secret_access_key=SECRETS["AWS_SECRET_ACCESS_KEY"],
        )  # fmt: skip
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket="mlflow")
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]

    def ask(
        self, method: str, path: str, login: tuple[str, str] | None = None, body: str = "", **headers: str
    ) -> tuple[int, str]:
        """Status and text of the answer to a request whose path is sent as it stands."""
        if login:
            headers["Authorization"] = "Basic " + b64encode(":".join(login).encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"Content-Type": "application/json"} | headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")


ADMIN = ("admin", SECRETS["MLFLOW_AUTH_ADMIN_PASSWORD"])


def create_team_database(uri: str) -> str:
    """A new database of a user whom PostgreSQL asks for a password; returns its URI, without one."""
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
