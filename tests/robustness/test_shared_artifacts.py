"""Stores that share one artifact folder: whatever people do in one, each version that the
registries name still loads.

Two databases, a file store of MLflow, a copied database and a run that is in progress keep their
files in one folder.
"""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import tempfile
import time
import warnings
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from mlflow import MlflowClient

from eyevsai.core.errors import JobError, UserError
from eyevsai.core.names import ModelName
from eyevsai.models.serialization import check_weights
from eyevsai.registry.entities import KnownVersion, read_models
from eyevsai.registry.settings import CleanupSettings, PromoteSettings
from eyevsai.serving.model_dir import MODEL_FOLDER, fetch_model_dir
from eyevsai.store.backend import open_store
from eyevsai.tracking.owner_marks import mark_run
from eyevsai.tracking.run import Run
from eyevsai.tracking.run_lifecycle import start_run
from eyevsai.workflows.registry.cleanup import cleanup
from eyevsai.workflows.registry.promote import promote, rollback
from eyevsai.workflows.system.doctor import adopt
from tests.conftest import TRAINED, copy_store, create_database
from tests.mlflow_gc import collect_garbage

NAME = ModelName("stripes", "deep_v1", "standard")
MODEL = TRAINED["deep_v1"]
A, B, COPY = "a", "b", "copy"
OWNERS, STORES = st.sampled_from([A, B]), st.sampled_from([A, B, COPY])
CLEANUPS = st.sampled_from(
    [
        {"keep": 1},
        {"keep": 2},
        {"orphans": True},
        {"failed_runs": True, "days": 0.0},
        {"all": True, "keep": 1, "days": 0.0},
    ]
)


class SharedArtifacts(RuleBasedStateMachine):
    """What people do with stores that share artifacts."""

    template: ClassVar[Path]  # an empty store
    package: ClassVar[Path]  # the files of a model
    postgres: ClassVar[str | None] = None  # in which the second store is; None for SQLite
    loaded: ClassVar[int] = 0  # versions that were loaded and found whole, in all examples

    def __init__(self) -> None:
        super().__init__()
        self.environment = dict(os.environ)
        self.root = Path(tempfile.mkdtemp(prefix="eyevsai-shared-"))
        self.state = self.root / "state"
        self.uris = {
            A: f"sqlite:///{self.root / 'mlflow.db'}",
            COPY: f"sqlite:///{self.root / 'copy.db'}",
        }
        self.precious: dict[Path, bytes] = {}  # files of the file store and of the run in progress

    def teardown(self) -> None:
        os.environ.clear()
        os.environ.update(self.environment)
        shutil.rmtree(self.root)

    @initialize()
    def make_stores(self) -> None:
        copy_store(self.template, self.root)
        if self.postgres is None:
            (self.root / "other").mkdir()
            copy_store(self.template, self.root / "other")
            self.uris[B] = f"sqlite:///{self.root / 'other' / 'mlflow.db'}"
            with closing(sqlite3.connect(self.root / "other" / "mlflow.db")) as database, database:
                database.execute(
                    "update experiments set artifact_location = ?",
                    [str(self.root / "mlruns" / "0")],
                )
        else:
            self.uris[B] = create_database(self.postgres, f"shared_{time.monotonic_ns()}")
            self._make_postgres()
        self._make_file_store()
        client = self.use(A)
        run = client.create_run("0", tags={"eyevsai.schema": "2", "eyevsai.job": "train"})
        mark_run(client, run.info.run_id)
        client.log_text(run.info.run_id, "of a run that is in progress", "file.txt")
        self._keep(Path(run.info.artifact_uri.removeprefix("file://")))
        for store in (A, A, B):
            self.train(store)
        shutil.copy(self.root / "mlflow.db", self.root / "copy.db")

    def _make_postgres(self) -> None:
        import psycopg

        self.use(B)
        open_store()
        with psycopg.connect(self.uris[B].replace("+psycopg2", "")) as connection:
            connection.execute(
                "update experiments set artifact_location = %s", [str(self.root / "mlruns" / "0")]
            )

    def _make_file_store(self) -> None:
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        client = MlflowClient(tracking_uri=(self.root / "mlruns").as_uri())
        run = client.create_run("0")
        client.log_text(run.info.run_id, "of a file store", "file.txt")
        self._keep(self.root / "mlruns" / "0" / run.info.run_id)
        del os.environ["MLFLOW_ALLOW_FILE_STORE"]

    def _keep(self, folder: Path) -> None:
        self.precious |= {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def use(self, store: str) -> MlflowClient:
        """Make a store the one that commands find, and return a client of it."""
        os.environ["MLFLOW_TRACKING_URI"] = self.uris[store]
        return MlflowClient(tracking_uri=self.uris[store])

    def versions(self, store: str) -> list[KnownVersion]:
        return [version for model in read_models(self.use(store)) for version in model.versions]

    def pick(self, store: str, sandbox: int) -> KnownVersion | None:
        found = self.versions(store)
        return found[sandbox % len(found)] if found else None

    @rule(store=OWNERS)
    def train(self, store: str) -> None:
        with self.start(store) as run:
            shutil.copytree(self.package, run.folder.path / "package")
            run.log_model(run.folder.path / "package", "model", {"variation": "standard"})
            run.enqueue("version", name=vars(NAME), tags={})
            assert run.flush()

    @rule(store=OWNERS)
    def fail(self, store: str) -> None:
        with suppress(ZeroDivisionError), self.start(store) as run:
            run.log_text("file.txt", "of a failure")
            raise ZeroDivisionError

    def start(self, store: str) -> AbstractContextManager[Run]:
        self.use(store)
        tags = {"eyevsai.job": "train", **vars(NAME)}
        return start_run(self.uris[store], "a run", tags, self.state)

    @rule(store=OWNERS, sandbox=st.integers(0, 9))
    def copy_version(self, store: str, sandbox: int) -> None:
        version = self.pick(store, sandbox)
        if version is not None:
            self.use(store).copy_model_version(version.uri, "copies")

    @rule(store=STORES, sandbox=st.integers(0, 9))
    def promote(self, store: str, sandbox: int) -> None:
        version = self.pick(store, sandbox)
        if version is not None:
            with suppress(UserError, JobError):
                promote(
                    PromoteSettings(
                        name=version.name,
                        version=version.number,
                        force=True,
                        reason="a test",
                        state_dir=str(self.state),
                    )
                )

    @rule(store=STORES, name=st.sampled_from([MODEL, "copies"]))
    def roll_back(self, store: str, name: str) -> None:
        self.use(store)
        with suppress(UserError):
            rollback(name, "a test", self.state)

    @rule(store=OWNERS, sandbox=st.integers(0, 9))
    def delete_version(self, store: str, sandbox: int) -> None:
        version = self.pick(store, sandbox)
        if version is not None:
            self.use(store).delete_model_version(version.name, str(version.number))

    @rule(store=OWNERS, sandbox=st.integers(0, 9))
    def delete_run(self, store: str, sandbox: int) -> None:
        version = self.pick(store, sandbox)
        if version is not None:
            with suppress(Exception):  # it may be deleted already
                self.use(store).delete_run(version.run_id)

    @rule(store=OWNERS)
    def collect_garbage(self, store: str) -> None:
        self.use(store)
        collect_garbage()
        self.use(store)

    @rule(store=STORES, chosen=CLEANUPS)
    def clean(self, store: str, chosen: dict[str, Any]) -> None:
        self.use(store)
        folders = {"state_dir": str(self.state), "cache_dir": str(self.root / "cache")}
        cleanup(CleanupSettings(yes=True, **folders, **chosen), lambda plan: True)

    @rule()
    def adopt_copy(self) -> None:
        self.use(COPY)
        adopt()

    @invariant()
    def each_version_loads(self) -> None:
        for store in (A, B) if B in self.uris else ():
            for version in self.versions(store):
                check_weights(fetch_model_dir(version.uri) / MODEL_FOLDER)
                type(self).loaded += 1

    @invariant()
    def files_of_others_are_there(self) -> None:
        assert {path: path.read_bytes() for path in self.precious} == self.precious


@pytest.fixture
def machine(
    template_store: Path, trained_store: Path, monkeypatch: pytest.MonkeyPatch
) -> type[SharedArtifacts]:
    """Return the machine with an empty store and a model to work with."""
    with closing(sqlite3.connect(trained_store / "mlflow.db")) as database:
        wanted = "select storage_location from model_versions where name = ?"
        ((location,),) = database.execute(wanted, [MODEL])
    monkeypatch.setattr(logging.getLogger("eyevsai"), "disabled", True)
    warnings.simplefilter("ignore", FutureWarning)
    package = Path(location.removeprefix("file://"))
    return type("Machine", (SharedArtifacts,), {"template": template_store, "package": package})


def play(machine: type[SharedArtifacts], examples: int, steps: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=checks,
    )
    run_state_machine_as_test(machine, settings=chosen)


@pytest.mark.parametrize("store", [COPY, B])
def test_all_that_another_store_deletes_is_its_own(
    machine: type[SharedArtifacts], store: str
) -> None:
    shared = machine()
    try:
        shared.make_stores()
        for chosen in (
            {"keep": 1},
            {"all": True, "keep": 0, "including_newest": True, "days": 0.0},
        ):
            shared.clean(store, chosen)
            assert [each.number for each in shared.versions(A)] == [1, 2]
            shared.each_version_loads()
            shared.files_of_others_are_there()
            shared.adopt_copy()
    finally:
        shared.teardown()


def test_two_sqlite_stores_that_share_artifacts(machine: type[SharedArtifacts]) -> None:
    play(machine, examples=8, steps=15)
    assert machine.loaded > 100


def test_sqlite_and_postgresql_that_share_artifacts(
    machine: type[SharedArtifacts], postgres: str
) -> None:
    machine.postgres = postgres
    play(machine, examples=3, steps=12)
    assert machine.loaded > 30


@pytest.mark.slow
def test_two_sqlite_stores_that_share_artifacts_for_long(machine: type[SharedArtifacts]) -> None:
    play(machine, examples=60, steps=40)
    assert machine.loaded > 1000
