"""Several promote at once, or by hand in MLflow's UI: one version is in Production."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.registry.entities import RegisteredModel, open_registry, read_model
from eyevsai.registry.stages import (
    StageHolder,
    assign_stage,
    find_inconsistencies,
    stage_holder,
    sync_stages,
)
from eyevsai.store.backend import open_store
from tests.conftest import ROOT, copy_store, create_database

Record = Callable[[str, object], None]
NAME, PROMOTERS = "many-deep_v1-standard", 4
PROMOTE = """
import sys
from eyevsai.registry.entities import open_registry
from eyevsai.registry.stages import assign_stage
client, number = open_registry(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:
    assign_stage(client, "many-deep_v1-standard", line.strip(), number)
    print("done", flush=True)
"""


STORES = ["sqlite", "postgresql+psycopg2", "postgresql+psycopg"]


@pytest.fixture(params=STORES)
def store(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    template_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """Return the URI of an empty store."""
    if request.param == "sqlite":
        copy_store(template_store, tmp_path)
        uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    else:
        uri = create_database(
            request.getfixturevalue("postgres"), f"promotion_{time.monotonic_ns()}"
        )
        uri = uri.replace("postgresql", request.param, 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return open_store()


@pytest.fixture
def client(store: str) -> MlflowClient:
    """A store with a model of six versions, which have no files."""
    client = MlflowClient(tracking_uri=store)
    run = client.create_run("0")
    client.create_registered_model(NAME)
    for _ in range(6):
        client.create_model_version(NAME, f"runs:/{run.info.run_id}/model", run.info.run_id)
    return client


def in_stage(model: RegisteredModel, stage: str) -> list[int]:
    return [version.number for version in model.versions if version.stage == stage]


def transition(client: MlflowClient, number: int, stage: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client.transition_model_version_stage(NAME, str(number), stage)


def start_promoter(store: str, number: int) -> subprocess.Popen[str]:
    """Start a process that promotes version `number` to each stage that it reads, and wait until it
    listens.
    """
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    job = subprocess.Popen(
        [sys.executable, "-c", PROMOTE, store, str(number)],
        env=env,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n", job.communicate()[1]
    return job


def stage_of(turn: int, sandbox: int) -> str:
    """Return the stage that a promoter wants: every third turn some of them want Staging."""
    return "staging" if turn % 3 == 2 and sandbox % 2 else "production"


@pytest.mark.requirement(7)
@pytest.mark.parametrize(
    "store",
    ["sqlite", "postgresql+psycopg", pytest.param(STORES[1], marks=pytest.mark.slow)],
    indirect=True,
)
def test_two_processes_that_promote_leave_one_version_in_production(
    store: str, client: MlflowClient
) -> None:
    job, own = start_promoter(store, 1), open_registry(store)
    holders = []
    for turn in range(12):
        print(stage_of(turn, 1), file=job.stdin, flush=True)
        assign_stage(own, NAME, stage_of(turn, 0), 2)
        assert job.stdout.readline() == "done\n", job.communicate()[1]
        model = read_model(client, NAME)
        holders.append((in_stage(model, "Production"), model.aliases["production"]))
        assert find_inconsistencies(model) == []
    job.communicate()
    assert job.returncode == 0
    assert [staged for staged, _ in holders] == [[alias] for _, alias in holders]


@pytest.mark.requirement(7)
@pytest.mark.slow
@pytest.mark.parametrize("rounds", [20, 150])
def test_processes_that_promote_leave_one_version_in_production(
    store: str, client: MlflowClient, rounds: int, record_property: Record
) -> None:
    jobs = [start_promoter(store, number) for number in range(1, PROMOTERS + 1)]
    holders = []
    for number in range(rounds):
        for sandbox, job in enumerate(jobs):
            print(stage_of(number, sandbox), file=job.stdin, flush=True)
        said = [job.stdout.readline() for job in jobs]
        failed = [
            job.communicate()[1] for job, line in zip(jobs, said, strict=True) if line != "done\n"
        ]
        assert failed == []
        model = read_model(client, NAME)
        holders.append((in_stage(model, "Production"), model.aliases["production"]))
        assert find_inconsistencies(model) == []
    record_property("rounds", rounds)
    for job in jobs:
        job.stdin.close()
        assert job.wait(30) == 0, job.stderr.read()
    assert [staged for staged, _ in holders] == [[alias] for _, alias in holders]
    assert len({alias for _, alias in holders}) > 1  # they did compete


@pytest.mark.parametrize("store", ["sqlite"], indirect=True)
class TestByHand:
    def test_an_alias_that_was_set_by_hand_counts(self, client: MlflowClient) -> None:
        assign_stage(client, NAME, "production", 2)
        client.set_registered_model_alias(NAME, "production", "5")
        model = read_model(client, NAME)
        assert stage_holder(model, "production") == StageHolder(5, "alias")
        assert (
            "alias production is 5, stage Production is 2; the alias was set by hand"
            in find_inconsistencies(model)[0]
        )
        sync_stages(client, NAME)
        model = read_model(client, NAME)
        assert (in_stage(model, "Production"), in_stage(model, "Archived")) == ([5], [2])

    def test_a_stage_that_was_set_by_hand_counts(self, client: MlflowClient) -> None:
        assign_stage(client, NAME, "production", 2)
        transition(client, 4, "Production")
        assert stage_holder(read_model(client, NAME), "production") == StageHolder(4, "stage")
        transition(client, 4, "Archived")
        transition(client, 2, "None")
        assert stage_holder(read_model(client, NAME), "production") == StageHolder(None, "stage")

    def test_an_alias_that_was_taken_away_by_hand_leaves_nobody(self, client: MlflowClient) -> None:
        assign_stage(client, NAME, "production", 2)
        client.delete_registered_model_alias(NAME, "production")
        assert stage_holder(read_model(client, NAME), "production") == StageHolder(None, "alias")

    def test_from_staging_to_production_and_back(self, client: MlflowClient) -> None:
        assign_stage(client, NAME, "staging", 3)
        assign_stage(client, NAME, "production", 3)
        assign_stage(client, NAME, "staging", None)
        model = read_model(client, NAME)
        assert (in_stage(model, "Production"), in_stage(model, "Staging"), dict(model.aliases)) == (
            [3],
            [],
            {"production": 3},
        )
        assign_stage(client, NAME, "staging", 3)
        assign_stage(client, NAME, "production", 1)
        model = read_model(client, NAME)
        assert (in_stage(model, "Production"), in_stage(model, "Staging")) == ([1], [3])
        assert find_inconsistencies(model) == []
