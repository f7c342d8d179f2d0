"""Cleanup beside promote and register, killed anywhere, without a store: what is needed stays, the
rest goes.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from mlflow.tracking._model_registry.client import ModelRegistryClient

from eyevsai.core.errors import JobError, UserError
from eyevsai.core.names import ModelName
from eyevsai.registry import artifacts, deletion
from eyevsai.registry.entities import logged_model_of, open_registry, read_models
from eyevsai.registry.registration import register
from eyevsai.registry.settings import CleanupSettings
from eyevsai.registry.stages import DELETING, assign_stage, reserved_versions
from eyevsai.store.backend import open_store
from eyevsai.store.run_dir import RunDir
from eyevsai.workflows.registry.cleanup import cleanup
from tests.conftest import ROOT, copy_store, create_database, experiments, move_paths, once
from tests.invoke import invoke, restored_process
from tests.robustness.test_store import Server

pytestmark = [pytest.mark.requirement(8), pytest.mark.timeout(900)]
Record = Callable[[str, object], None]
NAME = ModelName("stripes", "deep_v1", "standard")
MODEL = NAME.registered
STEPS = [  # of a deletion: it is killed before each of them, as often as each is taken
    *(
        (deletion.Deletion, name)
        for name in (
            "_delete_versions",
            "_delete_unprotected",
            "_reserve_run",
            "_erase",
            "_delete_rows",
        )
    ),
    (deletion.Deletion, "release"),
    (deletion, "reserve"),
    (deletion, "release_reservation"),
    (artifacts, "erase"),
    (artifacts.shutil, "rmtree"),
    (deletion, "_delete_row"),
    (ModelRegistryClient, "delete_model_version"),
]


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import what a forked process would otherwise import each time."""
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401


@pytest.fixture(scope="session")
def package(trained_store: Path) -> Path:
    """Return the files of a real model."""
    with closing(sqlite3.connect(trained_store / "mlflow.db")) as database:
        wanted = "select storage_location from model_versions where name = ?"
        ((location,),) = database.execute(wanted, [MODEL])
    return Path(location.removeprefix("file://"))


@pytest.fixture(scope="session")
def filled_store(
    tmp_path_factory: pytest.TempPathFactory, template_store: Path, package: Path
) -> Path:
    """Return a folder with a store that `fill` filled, and its state directory; never write to
    it.
    """

    def build(folder: Path) -> None:
        copy_store(template_store, folder)
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        with restored_process(folder, {"MLFLOW_TRACKING_URI": uri}):
            fill(uri, package, folder / "state")

    return once(tmp_path_factory, "filled", build)


@pytest.fixture
def filled(workplace: Path, filled_store: Path) -> Path:
    """Return the workplace with a copy of `filled_store`; this process has not opened it, so that
    it may fork.
    """
    shutil.copytree(filled_store, workplace, dirs_exist_ok=True)
    move_paths(workplace / "mlflow.db", filled_store, workplace)
    return workplace


def in_child(work: Callable[..., object], *arguments: object) -> int:
    """Runs `work` in a process of its own that needs no imports; returns its exit code, negative
    for a signal.
    """
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work(*arguments)
            code = 0
        except UserError as error:
            print(error, file=sys.stderr, flush=True)
            code = error.exit_code
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def add(client: MlflowClient, package: Path, state: Path, status: str = "FINISHED") -> str:
    """A training run as it leaves the store and this machine; a FINISHED one with a version, whose
    URI is returned.
    """
    run_id = client.create_run(
        "0", tags={"eyevsai.schema": "2", "eyevsai.job": "train", **vars(NAME)}
    ).info.run_id
    client.log_text(run_id, "a" * 1000, "config.json")
    folder = RunDir(state, run_id)
    folder.checkpoints.mkdir(parents=True)
    (folder.checkpoints / "1.json").write_text("{}")
    model = client.create_logged_model(
        "0", "model", source_run_id=run_id, params={"variation": "standard"}
    )
    client.log_model_artifacts(model.model_id, str(package))
    client.finalize_logged_model(model.model_id, "READY")
    uri = (
        register(client.tracking_uri, NAME, model.model_id, run_id, {})
        if status == "FINISHED"
        else run_id
    )
    client.set_terminated(run_id, status)
    return uri


def fill(uri: str, package: Path, state: Path, count: int = 5) -> None:
    """Versions 1 to `count`, of which 2 is in Production and 1 has been pruned to the newest; a run
    that failed.
    """
    client = open_registry(uri)
    for _ in range(count):
        add(client, package, state)
    add(client, package, state, "FAILED")
    assign_stage(client, MODEL, "production", 2)


def clean(state: Path, **settings: Any) -> None:
    cleanup(
        CleanupSettings(yes=True, state_dir=str(state), cache_dir=str(state / "cache"), **settings),
        lambda plan: True,
    )


def die_at(
    step: int,
    how: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL),
    replace: Callable[[Any, str, Any], None] = setattr,
) -> None:
    """Have this process call `how` just before it takes its `step`th step; `replace` is setattr or
    monkeypatch's.
    """
    taken = []

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            taken.append(original)
            if len(taken) == step:
                how()
            return original(*arguments, **named)

        return call

    for owner, name in STEPS:
        replace(owner, name, counted(getattr(owner, name)))


def clean_and_die(step: int, state: Path) -> None:
    die_at(step)
    clean(state, keep=1, old_versions=True, failed_runs=True)


def refuse_unloadable(uri: str) -> None:
    """All versions that are there load and answer; no model has a claim."""
    from eyevsai.serving.classifier import open_model
    from eyevsai.serving.model_dir import MODEL_FOLDER, fetch_model_dir

    models = read_models(open_registry(uri))
    for model in models:
        for version in model.versions:
            answer = open_model(fetch_model_dir(version.uri) / MODEL_FOLDER).predict(
                np.zeros((40, 30, 3), np.uint8)
            )
            assert abs(sum(answer.probabilities.values()) - 1) < 1e-3
        assert DELETING not in model.tags


def orphaned_bytes(folder: Path, state: Path) -> int:
    """What lies below the artifacts and the state directory of runs and logged models that the
    store does not know.
    """
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        known = {
            row[0]
            for row in database.execute(
                "select run_uuid from runs where lifecycle_stage = 'active'"
            )
        }
        known |= {row[0] for row in database.execute("select model_id from logged_models")}
    files = [
        path
        for root in (folder / "mlruns", folder / "artifacts", state)
        for path in root.rglob("*")
        if path.is_file()
    ]
    return sum(path.stat().st_size for path in files if not known & set(path.parts))


def versions_in(folder: Path) -> list[int]:
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        wanted = (
            "select version from model_versions where current_stage != 'Deleted_Internal' order "
            "by version"
        )
        return [row[0] for row in database.execute(wanted)]


def runs_in(folder: Path) -> dict[str, int]:
    """How many runs there are of each status, records of cleanups aside."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        return dict(
            database.execute(
                "select status, count(*) from runs where experiment_id = 0 and lifecycle_stage = "
                "'active' group by status"
            )
        )


@pytest.mark.processes("SIGKILL at each of several steps: forks, which need no imports")
@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 15])
def test_cleanup_killed_before_any_step_is_finished_by_a_rerun(
    filled: Path, every: int, record_property: Record, capfd: pytest.CaptureFixture[str]
) -> None:
    uri, workplace, state = os.environ["MLFLOW_TRACKING_URI"], filled, filled / "state"
    before = workplace.parent / f"{workplace.name}-before"
    shutil.copytree(workplace, before)
    tried = 0
    for step in range(1, 1000, every):
        shutil.rmtree(workplace)
        shutil.copytree(before, workplace)
        os.chdir(workplace)  # the folder of that name is another one now
        code = in_child(clean_and_die, step, state)
        if code == 0:  # it has fewer steps
            break
        assert code == -signal.SIGKILL, capfd.readouterr().err
        assert {2, 5} <= set(versions_in(workplace))
        tried += 1
        code = in_child(lambda: clean(state, keep=1, old_versions=True, failed_runs=True))
        assert code == 0, capfd.readouterr().err
        assert versions_in(workplace) == [2, 5], step
        assert runs_in(workplace) == {"FINISHED": 2}, step
        assert orphaned_bytes(workplace, state) == 0, step
        assert in_child(refuse_unloadable, uri) == 0, capfd.readouterr().err
    shutil.rmtree(before)
    record_property("tried", tried)
    record_property("survived", tried)
    assert tried > 20 // every


def test_deletion_that_was_begun_is_finished_by_a_cleanup_of_another_kind(filled: Path) -> None:
    workplace, state = filled, filled / "state"

    def die_in_erase() -> None:
        deletion.Deletion._erase = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        clean(state, keep=1)

    assert in_child(die_in_erase) == -signal.SIGKILL
    assert versions_in(workplace) == [2, 5]
    assert runs_in(workplace) == {"FINISHED": 5, "FAILED": 1}
    clean(state, cache=True)
    assert runs_in(workplace) == {"FINISHED": 2, "FAILED": 1}
    assert orphaned_bytes(workplace, state) == 0


def promote_at_random(uri: str, seed: int, seconds: float) -> None:
    """Promotes versions that are there, old ones preferred; one that is about to be deleted may be
    refused.
    """
    client, chance, end = open_registry(uri), random.Random(seed), time.monotonic() + seconds
    while time.monotonic() < end:
        numbers = sorted(
            int(version.version) for version in client.search_model_versions(f"name = '{MODEL}'")
        )
        with suppress(UserError):
            assign_stage(
                client, MODEL, "production", chance.choice(numbers[: len(numbers) // 2 + 1])
            )
            current = client.get_registered_model(MODEL).aliases.get("production")
            if current is not None:
                with suppress(UserError):  # somebody else promotes: it may be another by now
                    assign_stage(client, MODEL, "staging", int(current))


def register_more(uri: str, package: Path, state: Path, count: int) -> None:
    client = open_registry(uri)
    for _ in range(count):
        add(client, package, state)


def use_at_random(uri: str, package: Path, state: Path, seconds: float) -> None:
    """Promote and register in turn."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        promote_at_random(uri, int(end - time.monotonic()), 0.3)
        register_more(uri, package, state, 1)


def check_survivors(uri: str, folder: Path) -> None:
    """Fail unless the newest versions and those with an alias are there and load, and no file is
    left over.
    """
    numbers = versions_in(folder)
    assert numbers[-3:] == list(range(numbers[-1] - 2, numbers[-1] + 1))
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        aliased = [
            row[0] for row in database.execute("select version from registered_model_aliases")
        ]
    assert aliased
    assert set(aliased) <= set(numbers)
    refuse_unloadable(uri)
    assert orphaned_bytes(folder, folder / "state") == 0


def test_cleanup_beside_promotions_and_registrations(filled: Path, package: Path) -> None:
    uri, state = os.environ["MLFLOW_TRACKING_URI"], filled / "state"
    if (child := os.fork()) == 0:
        os._exit(in_child(use_at_random, uri, package, state, 4))
    ended, cleanups = 0, 0
    while not ended:
        clean(state, keep=3)
        cleanups += 1
        ended, status = os.waitpid(child, os.WNOHANG)
    assert status == 0
    assert cleanups > 1
    clean(state, keep=3)
    check_survivors(uri, filled)
    assert versions_in(filled)[-1] > 5  # it did register


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [20, 120])
def test_cleanups_beside_several_that_promote_and_register(
    workplace: Path,
    package: Path,
    seconds: int,
    record_property: Record,
    capfd: pytest.CaptureFixture[str],
) -> None:
    uri, state = os.environ["MLFLOW_TRACKING_URI"], workplace / "state"
    assert in_child(fill, uri, package, state, 8) == 0
    work: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (promote_at_random, (uri, 1, seconds)),
        (promote_at_random, (uri, 2, seconds)),
        (register_more, (uri, package, state, seconds // 2)),
    ]
    children = []
    for each, arguments in work:
        if (child := os.fork()) == 0:
            os._exit(in_child(each, *arguments))
        children.append(child)
    end, cleanups = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        code = in_child(lambda: clean(state, keep=3))
        assert code == 0, capfd.readouterr().err
        cleanups += 1
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0, 0], capfd.readouterr().err
    assert in_child(check_survivors, uri, workplace) == 0, capfd.readouterr().err
    record_property("cleanups", cleanups)


def test_of_two_cleanups_at_once_one_is_refused(filled: Path) -> None:
    workplace, state = filled, filled / "state"
    reading, writing = os.pipe()
    if (first := os.fork()) == 0:

        def hold() -> None:
            os.write(writing, b"1")
            time.sleep(30)

        die_at(2, hold)
        clean(state, keep=1)
        os._exit(0)
    assert os.read(reading, 1) == b"1"
    with pytest.raises(UserError, match="Another cleanup is running"):
        clean(state, keep=1)
    assert len(versions_in(workplace)) == 5
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    clean(state, keep=1)  # a dead one is no obstacle
    assert versions_in(workplace) == [2, 5]


def test_an_alias_that_was_set_after_the_plan_is_seen(filled: Path) -> None:
    uri, workplace, state = os.environ["MLFLOW_TRACKING_URI"], filled, filled / "state"
    client = open_registry(uri)
    settings = CleanupSettings(keep=1, yes=True, state_dir=str(state))

    def agree(plan: Any) -> bool:
        client.set_registered_model_alias(MODEL, "best", "3")
        client.set_model_version_tag(MODEL, "4", "pinned", "for the fair")
        return True

    done = cleanup(settings, agree)
    assert [item.target for item in done.deleted] == [f"models:/{MODEL}/1"]
    assert versions_in(workplace) == [2, 3, 4, 5]
    refuse_unloadable(uri)


def test_a_run_that_was_deleted_after_the_plan_is_kept(filled: Path) -> None:
    client = open_registry(os.environ["MLFLOW_TRACKING_URI"])
    (failed,) = client.search_runs(experiments(client), "attributes.status = 'FAILED'")
    settings = CleanupSettings(failed_runs=True, yes=True, state_dir=str(filled / "state"))

    def delete_run(plan: Any) -> bool:
        client.delete_run(failed.info.run_id)
        return True

    assert cleanup(settings, delete_run).deleted == []
    assert client.get_run(failed.info.run_id).info.lifecycle_stage == LifecycleStage.DELETED


def test_a_failed_reservation_is_released(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = deletion.reserve

    def reserve_and_fail(*arguments: Any) -> None:
        original(*arguments)
        raise MlflowException("not allowed", error_code=PERMISSION_DENIED)

    with monkeypatch.context() as patch:
        patch.setattr(deletion, "reserve", reserve_and_fail)
        with pytest.raises(UserError, match="no permission to delete"):
            clean(filled / "state", keep=1)
    client = open_registry(os.environ["MLFLOW_TRACKING_URI"])
    assert reserved_versions(client.get_registered_model(MODEL).tags) == frozenset()
    assert versions_in(filled) == [1, 2, 3, 4, 5]


def test_versions_registered_after_the_plan_are_seen_on_every_page(filled: Path) -> None:
    """MLflow's search returns 1,000 versions per page."""
    client = open_registry(os.environ["MLFLOW_TRACKING_URI"])
    first, third = (client.get_model_version(MODEL, number) for number in ("1", "3"))
    settings = CleanupSettings(keep=1, yes=True, state_dir=str(filled / "state"))

    def register_many(plan: Any) -> bool:
        rows = [("aaa", number, first, 10**13) for number in range(1, 1001)]
        with closing(sqlite3.connect(filled / "mlflow.db")) as database, database:
            for name in ("aaa", "zzz"):
                database.execute("insert into registered_models (name) values (?)", [name])
            database.executemany(
                "insert into model_versions (name, version, source, run_id, status, current_stage, "
                "last_updated_time) values (?, ?, ?, ?, 'READY', 'None', ?)",
                [
                    (name, number, version.source, version.run_id, time_ms)
                    for name, number, version, time_ms in [*rows, ("zzz", 1, third, 1)]
                ],
            )
        return True

    result = cleanup(settings, register_many)
    assert [item.target for item in result.deleted] == [f"models:/{MODEL}/4"]


def test_a_job_that_uses_a_version_protects_it_or_is_refused(filled: Path) -> None:
    from eyevsai.registry.lookup import check_not_reserved
    from eyevsai.registry.registration import create_reference

    uri, workplace, state = os.environ["MLFLOW_TRACKING_URI"], filled, filled / "state"
    client = open_registry(uri)
    job = client.create_run(
        "0", tags={"eyevsai.job": "evaluate", "model_uri": f"models:/{MODEL}/3"}
    ).info.run_id
    done = cleanup(CleanupSettings(keep=1, yes=True, state_dir=str(state)), lambda plan: True)
    assert versions_in(workplace) == [2, 3, 5]
    assert done.plan.kept[f"models:/{MODEL}/3"] == f"in use by run {job}, which is RUNNING"
    deletion.reserve(client, MODEL, [3])
    with pytest.raises(UserError, match="being deleted"):
        check_not_reserved(uri, f"models:/{MODEL}/3")
    with pytest.raises(UserError, match="being deleted"):
        create_reference(uri, "stripes", f"models:/{MODEL}/3")
    assert client.search_model_versions("name = 'stripes'") == []
    with pytest.raises(UserError, match="There is no"):
        check_not_reserved(uri, f"models:/{MODEL}/1")


def test_a_folder_that_cannot_be_erased_is_named_and_finished_later(filled: Path) -> None:
    uri, workplace, state = os.environ["MLFLOW_TRACKING_URI"], filled, filled / "state"
    mount = subprocess.run(["mount", "--version"], capture_output=True)
    number = "3"  # which nothing protects
    model_id = logged_model_of(open_registry(uri).get_model_version(MODEL, number).source)
    (folder,) = workplace.glob(f"mlruns/*/models/{model_id}")
    bound = subprocess.run(
        ["mount", "--bind", str(folder / "artifacts"), str(folder / "artifacts")],
        capture_output=True,
    )
    if mount.returncode or bound.returncode:
        pytest.skip("a folder that root cannot erase takes a mount")
    subprocess.run(["mount", "-o", "remount,ro,bind", str(folder / "artifacts")], check=True)
    try:
        with pytest.raises(JobError, match=r"only partly deleted.*(Read-only|busy)") as caught:
            cleanup(
                CleanupSettings(keep=0, including_newest=True, yes=True, state_dir=str(state)),
                lambda plan: True,
            )
        assert f"models:/{MODEL}/{number}" in str(caught.value)
        assert "Run the same command again" in str(caught.value)
    finally:
        subprocess.run(["umount", str(folder / "artifacts")], check=True)
    cleanup(CleanupSettings(cache=True, yes=True, state_dir=str(state)), lambda plan: True)
    assert not folder.exists()
    assert orphaned_bytes(workplace, state) == 0


def refused(*_: object, **__: object) -> None:
    """Answer as a database in which nothing may be written."""
    raise MlflowException("cannot execute INSERT in a read-only transaction\n[SQL: INSERT ...]")


def test_a_store_that_cannot_be_written_is_said_and_left_as_it_is(
    filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", refused)
        with pytest.raises(
            JobError,
            match=r"not writable.*read-only transaction\. Run the same command again",
        ):
            clean(filled / "state", keep=1)
    assert versions_in(filled) == [1, 2, 3, 4, 5]
    assert runs_in(filled) == {"FINISHED": 5, "FAILED": 1}
    assert invoke(filled, "cleanup", "--keep", "1", "--dry-run").returncode == 0


@pytest.mark.parametrize("step", [3, 9])
def test_a_store_that_goes_away_in_the_middle_is_said_and_a_rerun_finishes(
    filled: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    state = filled / "state"

    def go_away() -> None:
        raise MlflowException("the connection is gone")

    with monkeypatch.context() as patch:
        die_at(step, go_away, patch.setattr)
        with pytest.raises(
            JobError,
            match=r"became unreachable after 0 of 4 items: .*gone.* Run the same command again",
        ):
            clean(state, keep=1, old_versions=True, failed_runs=True)
    clean(state, keep=1, old_versions=True, failed_runs=True)
    assert versions_in(filled) == [2, 5]
    assert runs_in(filled) == {"FINISHED": 2}
    assert orphaned_bytes(filled, state) == 0
    refuse_unloadable(os.environ["MLFLOW_TRACKING_URI"])


@pytest.mark.slow
def test_a_read_only_database_is_said_and_left_as_it_is(
    postgres: str, tmp_path: Path, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = create_database(postgres, f"cleanup_{time.monotonic_ns()}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    open_store()
    fill(uri, package, tmp_path / "state")
    read_only = f"{uri}?options=-c%20default_transaction_read_only%3Don"
    command = [sys.executable, "-m", "eyevsai", "cleanup", "--keep", "1", "--yes"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": read_only}
    done = subprocess.run(
        command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=200
    )
    assert done.returncode == 1, done.stderr
    assert "read-only transaction" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(open_registry(uri).search_model_versions(f"name = '{MODEL}'")) == 5
    clean(tmp_path / "state", keep=1)
    refuse_unloadable(uri)
    assert sorted(
        int(each.version) for each in open_registry(uri).search_model_versions(f"name = '{MODEL}'")
    ) == [2, 5]


@pytest.fixture
def server(tmp_path: Path, template_store: Path) -> Iterator[Server]:
    folder = tmp_path / "server"
    folder.mkdir()
    shutil.copy(template_store, folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        database.execute("update experiments set artifact_location = 'mlflow-artifacts:/0'")
    server = Server(folder)
    server.start()
    yield server
    server.stop()


@pytest.mark.slow
def test_a_server_that_goes_away_in_the_middle(
    server: Server,
    tmp_path: Path,
    package: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    state = tmp_path / "state"
    assert in_child(fill, server.uri, package, state) == 0, capfd.readouterr().err

    def clean_without_server() -> None:
        die_at(9, lambda: os.killpg(server.process.pid, signal.SIGKILL))
        clean(state, keep=1, old_versions=True, failed_runs=True)

    assert in_child(clean_without_server) == 1
    said = capfd.readouterr().err
    assert "became unreachable after 0 of 4 items" in said
    assert "Run the same command again" in said
    server.process.wait()
    server.start()
    assert in_child(lambda: clean(state, keep=1, old_versions=True, failed_runs=True)) == 0, (
        capfd.readouterr().err
    )
    assert versions_in(server.folder) == [2, 5]
    assert runs_in(server.folder) == {"FINISHED": 2}
    assert orphaned_bytes(server.folder, state) == 0
    assert in_child(refuse_unloadable, server.uri) == 0, capfd.readouterr().err
