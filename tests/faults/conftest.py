"""What the faults share: places to run in, and a PostgreSQL of the tests' own where the machine has one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import Place, make_place


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, template_store: Path, stripes: Path) -> Place:
    """Where runs are started as a person starts them; parameter True: by `mlflow run`."""
    return make_place(tmp_path / "place", template_store, stripes, by_mlflow=getattr(request, "param", False))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URI of a server without databases of its own; append a name."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not binaries:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="eyevsai-postgres-"))  # pytest's own folders are closed to other users
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = "postgres"
        shutil.chown(folder, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def command(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(binaries[-1] / program), *arguments],
            user=user,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    data, options = str(folder / "data"), f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=300"
    command("initdb", "-D", data, "-A", "trust", "-U", "eyevsai", "--no-sync")
    command("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    yield f"postgresql://eyevsai@127.0.0.1:{port}"
    command("pg_ctl", "-D", data, "-m", "immediate", "stop")
    shutil.rmtree(folder)


def create_database(uri: str, name: str) -> str:
    """A new, empty database; returns its URI."""
    import psycopg

    with psycopg.connect(f"{uri}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return f"{uri}/{name}"
