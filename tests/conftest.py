"""What the tests share: small image folders made here, a store made once, the real photographs if
present, and a PostgreSQL of the tests' own where the machine has one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from PIL import Image

from eyevsai.store.identity import STORE_DATABASE, identify_database
from eyevsai.store.relocate import PATH_COLUMNS
from tests.child_processes import (  # noqa: F401, hooks
    pytest_configure,
    pytest_runtest_call,
    pytest_runtest_protocol,
    pytest_runtest_teardown,
    pytest_terminal_summary,
)
from tests.invoke import ROOT, invoke, invoke_entry_point, restored_process

if TYPE_CHECKING:
    from mlflow import MlflowClient

DEFAULT_HANDLERS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
PHOTOS = Path(os.environ.get("EYEVSAI_PHOTOS", ROOT.parent / "shared" / "photos"))


settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", deadline=None)
settings.register_profile("nightly", max_examples=300, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--requirement", type=int, help="Run only the tests of one row of docs/requirements.md."
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests that need PostgreSQL into one group: one worker starts one server."""
    if (number := config.getoption("--requirement")) is not None:
        items[:] = [
            item
            for item in items
            if any(number in mark.args for mark in item.iter_markers("requirement"))
        ]
    for item in items:
        if "postgres" in getattr(item, "fixturenames", ()) or "postgresql" in item.name:
            item.own_markers = [mark for mark in item.own_markers if mark.name != "xdist_group"]
            item.add_marker(pytest.mark.xdist_group("postgres"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The suite runs in several processes: each computes on one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the cache of all tests of a session, in all workers: pixels are decoded once."""
    return once(tmp_path_factory, "cache", lambda folder: None)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, cache_dir: Path, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "EYEVSAI_")):
            monkeypatch.delenv(name)
    # its thread changes os.environ, on which requests of other threads fail while they read it
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("EYEVSAI_CACHE", str(cache_dir))
    monkeypatch.setenv("EYEVSAI_STATE", str(tmp_path / "state"))


@pytest.fixture(autouse=True)
def default_signals() -> Iterator[None]:
    """Set the default handlers of signals: programs that a test starts inherit ignored signals.

    A shell ignores SIGINT for a job in the background, and a command that a signal ended in this
    process ignores that signal afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    for number, handler in DEFAULT_HANDLERS.items():
        signal.signal(number, handler)
    yield
    for number, handler in DEFAULT_HANDLERS.items():
        signal.signal(number, handler)


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
            Image.fromarray(draw_image(label, number, *size)).save(
                folder / name / f"{number:03d}.png"
            )
    return folder


@pytest.fixture(scope="session")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of three classes, 20 images each."""
    return write_images(
        tmp_path_factory.mktemp("data") / "stripes", {"across": 20, "down": 20, "wide": 20}
    )


def once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """Build a folder once per session, for all workers of pytest-xdist, and return it.

    Its name has to be unique in the module of `build`.
    """
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    root = factory.getbasetemp().parent if session else factory.getbasetemp()
    module = build.__module__.rpartition(".")[2]
    folder = root / f"shared-{session or 'alone'}" / module / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (done := Path(f"{folder}.done")).exists():
            folder.mkdir()
            build(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def template_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store whose tables exist: the first migration takes seconds."""

    def build(folder: Path) -> None:
        from eyevsai.store.backend import open_store

        with restored_process(folder, {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}):
            open_store()

    return once(tmp_path_factory, "store", build) / "mlflow.db"


# Options of `train`, `tune` and `train-all`: a network that is trained in a second, one that learns
# STRIPES in eight epochs, and a forest.
TINY_NETWORK = (
    *("--epochs", "1", "--width", "4", "--image-size", "32", "--batch-size", "8", "--threads", "1"),
)
SMALL_NETWORK = ("--image-size", "32", "--batch-size", "8", "--width", "8", "--threads", "1")
SMALL_FOREST = (
    *("--model", "shallow", "--variation", "rf_hog_lbp", "--n-estimators", "5"),
    *("--image-size", "32"),
)
# Options of `train` alone: the networks above without the settings of a study.
TINY = (*TINY_NETWORK, "--tuned", "never")
SMALL = (*SMALL_NETWORK, "--tuned", "never")


def draw_scene(seed: int, side: int = 128) -> Image.Image:
    """Draw a picture with large and small structures, as photographs have, and unlike any of
    another seed.
    """
    random = np.random.default_rng(seed)
    layers = [
        np.asarray(
            Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize(
                (side, side), 3
            )
        )
        for cells in (3, 6, 12)
    ]
    return Image.fromarray(np.mean(layers, axis=0).astype(np.uint8))


def copy_store(template: Path, folder: Path) -> None:
    """Copy the empty store into a folder."""
    shutil.copy(template, folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.execute(
            "update experiments set artifact_location = ?", [str(folder / "mlruns" / "0")]
        )


def move_paths(store: Path, before: Path, after: Path) -> None:
    """Replace the folder in all artifact locations of a SQLite store: a copy must not write to its
    original.
    """
    with closing(sqlite3.connect(store)) as database, database:
        for table, column in PATH_COLUMNS:
            database.execute(
                f"update {table} set {column} = replace({column}, ?, ?)", [str(before), str(after)]
            )
        identity = json.dumps(
            identify_database(f"sqlite:///{store}")
        )  # a store of its own, no copy of another
        database.execute(
            "update experiment_tags set value = ? where key = ?", [identity, STORE_DATABASE]
        )


# Versions in the store of `trained_store`, by family; STRIPES are the images of its dataset.
TRAINED = {
    "deep_v1": "stripes-deep_v1-standard",
    "deep_v2": "stripes-deep_v2-resnet",
    "shallow": "stripes-shallow-svm_hog_lbp",
    "transfer": "stripes-transfer-mobilenet_v2",
}
STRIPES = {"across": 40, "down": 40, "wide": 40}
SETTINGS = {
    "deep_v1": "--batch-size 8 --width 8 --epochs 8",
    "deep_v2": "--variation resnet --batch-size 8 --width 8 --layers 1,1,1,1 --epochs 4",
    "shallow": "--variation svm_hog_lbp",
    "transfer": "--variation mobilenet_v2 --batch-size 8 --weights none --dense-units 16 "
    "--freeze-epochs 1 --fine-tune-epochs 1",
}


@pytest.fixture(scope="session")
def trained_store(
    tmp_path_factory: pytest.TempPathFactory, template_store: Path, cache_dir: Path
) -> Path:
    """Return a folder with a store of one version per family (TRAINED), not evaluated; never write
    to it.

    Its images, STRIPES, are in `data/stripes`.
    """

    def build(folder: Path) -> None:
        copy_store(template_store, folder)
        images = write_images(folder / "data" / "stripes", STRIPES)
        env = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "EYEVSAI_CACHE": str(cache_dir),
            "EYEVSAI_STATE": str(folder / "state"),
        }
        for family, flags in SETTINGS.items():
            small = f"--image-size 32 --threads 1 --tuned never {flags}".split()
            invoke(folder, "train", "--model", family, "--data", str(images), *small, **env)

    return once(tmp_path_factory, "trained", build)


def extend_trained(trained: Path, cache_dir: Path, folder: Path) -> Callable[..., object]:
    """Copy a folder with a store and its artifacts; return a function that runs `eyevsai ARGUMENTS`
    there.
    """
    from mlflow.tracking._tracking_service import utils

    shutil.copytree(trained, folder, dirs_exist_ok=True)
    move_paths(folder / "mlflow.db", trained, folder)
    utils._artifact_repos_cache.clear()  # by run id: it would lead to the files of the original
    env = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "EYEVSAI_CACHE": str(cache_dir),
        "EYEVSAI_STATE": str(folder / "state"),
    }
    return partial(invoke, folder, **env)


def copy_trained(trained: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy a folder with a store and its artifacts, make it the current folder, and return it."""
    from mlflow.tracking._tracking_service import utils

    shutil.copytree(trained, folder)
    move_paths(folder / "mlflow.db", trained, folder)
    utils._artifact_repos_cache.clear()  # by run id: it would lead to the files of another copy
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def trained(trained_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of `trained_store`, as the current folder: a module makes it its
    `workplace`.
    """
    return copy_trained(trained_store, tmp_path / "project", monkeypatch)


@pytest.fixture
def workplace(tmp_path: Path, template_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a fresh store, as the current folder."""
    copy_store(template_store, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    return tmp_path


Eyevsai = Callable[..., "subprocess.CompletedProcess[str]"]


def experiments(client: MlflowClient | None = None) -> list[str]:
    """Return the ids of all experiments except the audit log: each dataset has one of its own."""
    from mlflow import MlflowClient

    from eyevsai.registry.audit_log import EXPERIMENT

    client = client or MlflowClient()
    return [each.experiment_id for each in client.search_experiments() if each.name != EXPERIMENT]


@pytest.fixture
def eyevsai(workplace: Path) -> Eyevsai:
    """Run `eyevsai ARGUMENTS` in the workplace, in this process."""
    return partial(invoke, workplace)


@pytest.fixture
def eyevsai_process(workplace: Path) -> Eyevsai:
    """The same as a process of its own: for what a process alone shows."""
    return eyevsai_in(workplace)


@pytest.fixture
def jobs_in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make train-all run its jobs in this process."""
    from eyevsai.executors import base
    from eyevsai.workflows.sweep import train_all
    from tests.in_process_executor import InProcessExecutor

    monkeypatch.setattr(
        train_all, "make_executor", lambda settings, max_workers: InProcessExecutor(max_workers)
    )
    monkeypatch.setattr(base, "POLL_S", 0.01)


@pytest.fixture
def entry_point(workplace: Path) -> Eyevsai:
    """Do what `mlflow run . -e ENTRY -P name=value ...` does, in this process."""
    return partial(invoke_entry_point, workplace)


def eyevsai_in(folder: Path) -> Eyevsai:
    """Return a function that runs `eyevsai ARGUMENTS` as a process in `folder`."""

    def run(*arguments: str, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "eyevsai", *arguments]
        environment = (
            os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | env
        )
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300
        )
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
    # pytest's own folders are closed to other users
    folder = Path(tempfile.mkdtemp(prefix="eyevsai-postgres-"))
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

    data, options = (
        str(folder / "data"),
        f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=300",
    )
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
