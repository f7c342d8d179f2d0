"""Rollouts of digits with processes alone: a server, a controller, and clients over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from eyevsai.cli.project import render_entry_points, render_mlproject
from eyevsai.data.digits import write_digits
from tests.conftest import ROOT, Eyevsai, copy_store, copy_trained, once
from tests.e2e.rollout_stage import ANY_VERSION, POLICY, Clients, read_images
from tests.e2e.test_serve import served
from tests.invoke import invoke

NAME = "digits-deep_v1-standard"
GOOD, SHUFFLED = 2, 3
TRAIN = ("--width", "16", "--threads", "1", "--tuned", "never")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def copy_images(paths: Sequence[Path], names: Sequence[str], folder: Path) -> str:
    """Copy images into class folders, one name for each image, and return the folder."""
    for path, name in zip(paths, names, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / name)
    return str(folder)


@pytest.fixture(scope="session")
def digits_store(
    tmp_path_factory: pytest.TempPathFactory, template_store: Path, cache_dir: Path
) -> Path:
    """Return a folder with a store of two good versions, the first one in Production, and one that
    was trained on shuffled labels; never write to it.

    All are evaluated on other digits, which are in `new/digits`.
    """

    def build(folder: Path) -> None:
        copy_store(template_store, folder)
        env = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "EYEVSAI_CACHE": str(cache_dir),
            "EYEVSAI_STATE": str(folder / "state"),
        }
        random = np.random.default_rng(0)
        paths = random.permutation(sorted(write_digits(cache_dir).rglob("*.png")))
        names = [path.parent.name for path in paths]
        good = copy_images(paths[:1200], names[:1200], folder / "good" / "digits")
        shuffled = copy_images(
            paths[:1200], random.permutation(names[:1200]), folder / "shuffled" / "digits"
        )
        new = copy_images(paths[1200:], names[1200:], folder / "new" / "digits")
        for data, *flags in (
            (good, "--epochs", "10", "--seed", "0"),
            (good, "--epochs", "10", "--seed", "1"),
            (shuffled, "--epochs", "2"),
        ):
            invoke(folder, "train", "--data", data, *flags, *TRAIN, **env)
        for number in (1, GOOD, SHUFFLED):
            uri = f"models:/{NAME}/{number}"
            invoke(folder, "evaluate", uri, "--data", new, "--corruption-images", "0", **env)
        (folder / "promotion.toml").write_text(ANY_VERSION, encoding="utf-8")
        # without labels, no step passes
        policy = f"{POLICY}min_labels = 1\n"
        (folder / "rollout.toml").write_text(policy, encoding="utf-8")
        invoke(folder, "promote", NAME, "--version", "1", **env)

    return once(tmp_path_factory, "digits", build)


@pytest.fixture
def workplace(digits_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copy_trained(digits_store, tmp_path / "project", monkeypatch)
    monkeypatch.setenv("EYEVSAI_LOG", f"sqlite:///{folder / 'log.db'}")
    for name, text in {"MLproject": render_mlproject(""), **render_entry_points()}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "conda.yaml", folder)
    return folder


@contextmanager
def traffic(workplace: Path) -> Iterator[Clients]:
    """Serve the model in a process, with clients that label each answer, inside the block."""
    command = (sys.executable, "-m", "eyevsai", "serve", NAME, "--port", "0", "--poll-s", "0.3")
    with served(workplace, command=command) as server:
        clients = Clients(server.url, read_images(workplace / "new" / "digits"), label=True)
        with clients.running():
            yield clients
        assert server.stop() == 0, server.text
        assert "Traceback" not in server.text


def read_runs() -> list[tuple[str, str]]:
    """Return job and status of all runs."""
    client = MlflowClient()
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(experiments)
    return [(run.data.tags.get("eyevsai.job", ""), run.info.status) for run in runs]


def read_aliases() -> dict[str, int]:
    aliases = MlflowClient().get_registered_model(NAME).aliases
    return {name: int(number) for name, number in aliases.items()}


def test_version_of_shuffled_labels_is_rolled_back_by_labels(
    workplace: Path, eyevsai_process: Eyevsai
) -> None:
    start = ("rollout", "start", NAME, "--version", str(SHUFFLED), "--every-s", "0.5", "--json")
    with traffic(workplace) as clients:
        done = eyevsai_process(*start, code=1)
    status = json.loads(done.stdout)
    assert (status["phase"], status["share"]) == ("rolled_back", 0)
    evidence = {test["name"]: test["log_e"] for test in status["tests"]}
    print(f"{status['labels']} labels of {status['requests']} requests: {status['reason']}")
    assert evidence["wrong"] > 0
    # it differs from the other version as often as in its evaluation
    assert "wrong more often" in status["reason"]
    assert set(clients.statuses) == {200}
    assert len(clients.statuses) > 50
    assert read_aliases() == {"production": 1}
    runs = read_runs()
    assert ("rollout", "FAILED") in runs
    assert "RUNNING" not in {state for _, state in runs}


def test_entry_point_rolls_out_a_good_version(workplace: Path) -> None:
    command = (
        *(sys.executable, "-m", "mlflow", "run", ".", "-e", "rollout", "--env-manager=local"),
        *("-P", f"name={NAME}", "-P", f"version={GOOD}", "-P", "every_s=0.5"),
    )
    with traffic(workplace) as clients:
        done = subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "promoted. All steps have passed." in done.stdout
    assert set(clients.statuses) == {200}
    assert read_aliases() == {"production": GOOD}
    runs = read_runs()
    assert "RUNNING" not in {state for _, state in runs}
    assert runs.count(("rollout", "FINISHED")) == 2  # the rollout, and the call of `mlflow run`
