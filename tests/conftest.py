"""What the tests share: small image folders made here, a store made once, the real photographs if present,
and a PostgreSQL of the tests' own where the machine has one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PHOTOS = Path(os.environ.get("EYEVSAI_PHOTOS", ROOT.parent / "shared" / "photos"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The suite runs in several processes: each computes on one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, cache_root: Path, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "EYEVSAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EYEVSAI_CACHE", str(cache_root))
    monkeypatch.setenv("EYEVSAI_STATE", str(tmp_path / "state"))


@pytest.fixture
def photos() -> Path:
    if not PHOTOS.is_dir():
        pytest.skip(f"no photographs at {PHOTOS}: set EYEVSAI_PHOTOS")
    return PHOTOS


def draw_image(label: int, number: int, width: int = 40, height: int = 32) -> np.ndarray:
    """H,W,3 uint8: stripes whose direction and colour tell the class, with noise of their own."""
    noise = np.random.default_rng((label, number)).integers(0, 90, (height, width, 3))
    y, x = np.mgrid[:height, :width]
    stripes = ((x * (label % 2) + y * (1 - label % 2) + number) // 4 % 2)[..., None]
    color = np.array([(label + 1) * 60 % 166, 150 - label * 40, label * 70 % 166])
    return (stripes * color + noise).clip(0, 255).astype(np.uint8)


def write_images(folder: Path, counts: dict[str, int], start: int = 0) -> Path:
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            size = (40 + number % 3 * 10, 32 + number % 2 * 8)
            Image.fromarray(draw_image(label, number, *size)).save(folder / name / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three classes, 20 images each."""
    return write_images(tmp_path_factory.mktemp("data") / "stripes", {"across": 20, "down": 20, "wide": 20})


@pytest.fixture(scope="session")
def template_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose tables are there: the first migration takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    code = "from eyevsai.store import open_store; open_store()"
    env = os.environ | {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, check=True, capture_output=True)
    return folder / "mlflow.db"


def copy_store(template: Path, folder: Path) -> None:
    """Makes a fresh store in a folder."""
    import sqlite3

    shutil.copy(template, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:  # the template's own folder must not be written to
        database.execute("update experiments set artifact_location = ?", [str(folder / "mlruns" / "0")])
    database.close()


@pytest.fixture
def workplace(tmp_path: Path, template_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a fresh store, as the current folder."""
    copy_store(template_store, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


Eyevsai = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def eyevsai(workplace: Path) -> Eyevsai:
    """Runs `eyevsai ARGUMENTS` as a process in the workplace and returns what became of it."""
    return eyevsai_in(workplace)


@pytest.fixture
def eyevsai_here(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Eyevsai:
    """The same in this process, which has imported what it needs: for journeys of many commands."""
    import torch

    from eyevsai.cli import main

    def run(*arguments: str, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        returned, threads = 0, torch.get_num_threads()
        with monkeypatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            try:
                main(arguments)
            except SystemExit as end:
                returned = int(end.code or 0)
        torch.set_num_threads(threads)
        said = capsys.readouterr()
        assert code is None or returned == code, said.out + said.err
        return subprocess.CompletedProcess(list(arguments), returned, said.out, said.err)

    return run


def eyevsai_in(folder: Path) -> Eyevsai:
    """What runs `eyevsai ARGUMENTS` as a process in a folder."""

    def run(*arguments: str, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "eyevsai", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | env
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    return run


def find_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URI of a server without databases of its own; append a name."""
    if not find_postgres():
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    with start_postgres() as uri:
        yield uri


def find_postgres() -> list[Path]:
    """The folders of PostgreSQL's programs, the newest last."""
    return sorted(Path("/usr/lib/postgresql").glob("*/bin"))


@contextmanager
def start_postgres() -> Iterator[str]:
    """A server of one's own; its URI, without a database."""
    binaries = find_postgres()
    folder = Path(tempfile.mkdtemp(prefix="eyevsai-postgres-"))  # pytest's own folders are closed to other users
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = "postgres"
        shutil.chown(folder, user)
    port = find_port()

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
