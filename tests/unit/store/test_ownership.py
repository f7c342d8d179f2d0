"""Files are deleted only where they provably belong to the store: several stores share one artifact
folder.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.registry.artifacts import Artifacts
from eyevsai.registry.deletion import Deletion
from eyevsai.registry.orphans import plan_orphans
from eyevsai.registry.queries import RunQueries
from eyevsai.registry.retention import DeletionItem, DeletionPlan
from eyevsai.store import identity, ownership
from eyevsai.store.identity import adopt_store, ensure_store_id, read_store_id
from eyevsai.store.ownership import MARK, is_owned, write_mark
from eyevsai.tracking.owner_marks import mark_model, mark_run
from eyevsai.workflows.system.doctor import adopt


def open_client(path: Path) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{path}")


def plan(client: MlflowClient, folder: Path) -> DeletionPlan:
    artifacts = Artifacts(client)
    return plan_orphans(
        client, artifacts, RunQueries(client, artifacts.experiment_ids), [], folder / "state"
    )


def add_run(client: MlflowClient) -> tuple[Path, Path]:
    """A run and a logged model as training leaves them: their folders."""
    run = client.create_run("0")
    mark_run(client, run.info.run_id)
    client.log_text(run.info.run_id, "four", "file.txt")
    model = client.create_logged_model("0", "model", source_run_id=run.info.run_id)
    mark_model(client, model)
    return (
        Path(uri.removeprefix("file://")).parent
        for uri in (run.info.artifact_uri, model.artifact_location)
    )


def forget(store: Path, *folders: Path) -> None:
    """Delete rows, as an interrupted `mlflow gc` does, and leave the files."""
    with closing(sqlite3.connect(store)) as database, database:
        for folder in folders:
            database.execute("delete from runs where run_uuid = ?", [folder.name])
            database.execute("delete from logged_models where model_id = ?", [folder.name])


def adopt_at(path: Path) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
        return adopt()


@pytest.fixture
def client(workplace: Path) -> MlflowClient:
    return open_client(workplace / "mlflow.db")


def test_marked_folders_without_a_row_are_orphans(client: MlflowClient, workplace: Path) -> None:
    kept, gone = (list(add_run(client)) for _ in range(2))
    forget(workplace / "mlflow.db", *gone)
    assert {item.paths[0] for item in plan(client, workplace).items} == set(gone)
    assert all((folder / MARK).is_file() for folder in (*kept, *gone))


def test_files_of_another_store_are_named_and_kept(
    client: MlflowClient, workplace: Path, template_store: Path
) -> None:
    # no *.db: nothing about its name says that it is a store
    shutil.copy(template_store, workplace / "b.sqlite")
    with closing(sqlite3.connect(workplace / "b.sqlite")) as database, database:
        database.execute(
            "update experiments set artifact_location = ?", [str(workplace / "mlruns" / "0")]
        )
    own, theirs = list(add_run(client)), list(add_run(open_client(workplace / "b.sqlite")))
    found = plan(client, workplace)
    assert found.items == ()
    assert {name: why for name, why in found.kept.items() if name in map(str, theirs)} == {
        str(folder): "unknown, kept: it has no owner mark of this store" for folder in theirs
    }
    assert not set(map(str, own)) & found.kept.keys()


def test_runs_of_a_file_store_are_kept(client: MlflowClient, workplace: Path) -> None:
    add_run(client)
    folder = workplace / "mlruns" / "0" / ("f" * 32)
    (folder / "artifacts").mkdir(parents=True)
    (folder / "meta.yaml").write_text("run_id: " + "f" * 32)
    found = plan(client, workplace)
    assert found.items == ()
    assert "unknown, kept" in found.kept[str(folder)]


def test_copied_database_proves_nothing_until_it_is_adopted(
    client: MlflowClient, workplace: Path
) -> None:
    add_run(client)
    shutil.copy(workplace / "mlflow.db", workplace / "copy.db")
    later = list(add_run(client))  # which the copy does not know
    copy = open_client(workplace / "copy.db")
    assert f"a copy of the one at {workplace / 'mlflow.db'}" in read_store_id(copy).doubt
    found = plan(copy, workplace)
    assert found.items == ()
    assert all("its database is a copy" in found.kept[str(folder)] for folder in later)
    run = copy.create_run("0")
    mark_run(copy, run.info.run_id)
    assert not (workplace / "mlruns" / "0" / run.info.run_id / MARK).exists()
    assert adopt_store(copy)
    assert read_store_id(copy).doubt == ""
    assert read_store_id(copy).ids != read_store_id(client).ids
    assert not adopt_store(copy)
    assert plan(copy, workplace).items == ()  # what the original marked stays the original's
    orphan = list(add_run(copy))
    forget(workplace / "copy.db", *orphan)
    assert {item.paths[0] for item in plan(copy, workplace).items} == set(orphan)
    assert plan(client, workplace).items == ()


def test_copy_deletes_no_files_of_its_original(client: MlflowClient, workplace: Path) -> None:
    folders = list(add_run(client))
    run_id = folders[0].name
    shutil.copy(workplace / "mlflow.db", workplace / "copy.db")
    item = DeletionItem("run", f"run {run_id}", "", run_ids=(run_id,))

    def why_not(store: str) -> str:
        opened = open_client(workplace / store)
        return (
            Deletion(opened, Artifacts(opened), workplace / "state")
            .reasons_to_keep([item])
            .get(item.target, "")
        )

    assert why_not("mlflow.db") == ""
    assert "its files may belong to another store: its database is a copy of" in why_not("copy.db")
    assert "files from before the copy stay the original's" in adopt_at(workplace / "copy.db")
    assert (
        why_not("copy.db")
        == f"{folders[0]} is not deleted: it has the owner mark of another store."
    )
    assert why_not("mlflow.db") == ""


def test_restored_database_owns_the_files_once_it_is_adopted(
    client: MlflowClient, workplace: Path
) -> None:
    folders = list(add_run(client))
    shutil.copy(workplace / "mlflow.db", workplace / "backup.db")
    (workplace / "mlflow.db").unlink()
    assert read_store_id(open_client(workplace / "backup.db")).doubt
    assert "owns 2 folders of runs and models of the original" in adopt_at(workplace / "backup.db")
    forget(workplace / "backup.db", *folders)
    assert {
        item.paths[0] for item in plan(open_client(workplace / "backup.db"), workplace).items
    } == set(folders)


def test_moved_project_keeps_its_ownership(
    client: MlflowClient, workplace: Path, tmp_path: Path
) -> None:
    orphan = list(add_run(client))
    forget(workplace / "mlflow.db", *orphan)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("mlflow.db", "mlruns"):
        (workplace / name).rename(moved / name)
    with closing(sqlite3.connect(moved / "mlflow.db")) as database, database:
        database.execute(
            "update experiments set artifact_location = ?", [str(moved / "mlruns" / "0")]
        )
    there = open_client(moved / "mlflow.db")
    assert read_store_id(there).doubt == ""
    assert {item.paths[0].name for item in plan(there, moved).items} == {
        folder.name for folder in orphan
    }


def test_store_of_another_machine_is_in_doubt(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_store_id(client, "0")
    for machine in ("another", ""):
        monkeypatch.setattr(identity, "machine_id", lambda machine=machine: machine)
        assert read_store_id(client).doubt


def test_copied_mark_proves_nothing_while_its_folder_exists(tmp_path: Path) -> None:
    folder = tmp_path / "a" / ("1" * 32)
    write_mark(folder, "store")
    copy = tmp_path / "b" / folder.name
    shutil.copytree(folder, copy)
    assert is_owned(folder, {"store"})
    assert not is_owned(folder, {"other"})
    assert not is_owned(copy, {"store"})
    renamed = folder.rename(folder.with_name("2" * 32))
    assert not is_owned(renamed, {"store"})
    assert is_owned(copy, {"store"})  # its original was moved away
    (copy / ownership.MARK).write_text("torn")
    assert not is_owned(copy, {"store"})


def test_addresses_of_one_postgresql_are_one_store(postgres: str) -> None:
    from tests.conftest import create_database

    uri = create_database(postgres, "ownership")
    drivers = [
        uri.replace("postgresql", name, 1) for name in ("postgresql+psycopg", "postgresql+psycopg2")
    ]
    identities = [
        identity.identify_database(each)
        for each in (*drivers, drivers[0].replace("127.0.0.1", "localhost"))
    ]
    assert identities[0] == identities[1] == identities[2]
    other = create_database(postgres, "ownership_copy")
    assert (
        identity.identify_database(other.replace("postgresql", "postgresql+psycopg", 1))
        != identities[0]
    )


def test_renamed_original_stays_the_owner_and_its_copy_does_not(
    client: MlflowClient, workplace: Path
) -> None:
    """After both, the former path is gone, and would speak for the copy as much as for the
    original.
    """
    add_run(client)
    shutil.copy(workplace / "mlflow.db", workplace / "copy.db")
    (workplace / "mlflow.db").rename(workplace / "main.db")
    assert read_store_id(open_client(workplace / "main.db")).doubt == ""
    assert read_store_id(open_client(workplace / "copy.db")).doubt
    shutil.copy(workplace / "main.db", workplace / "mlflow.db")  # at the path of the original
    assert read_store_id(open_client(workplace / "mlflow.db")).doubt


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_linked_database_is_the_same_store(
    client: MlflowClient, workplace: Path, link: str
) -> None:
    add_run(client)
    getattr(workplace / "linked.db", link)(workplace / "mlflow.db")
    assert read_store_id(open_client(workplace / "linked.db")) == read_store_id(client)


def test_interrupted_adoption_proves_nothing(
    client: MlflowClient, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(client)
    shutil.copy(workplace / "mlflow.db", workplace / "copy.db")
    copy, write = open_client(workplace / "copy.db"), MlflowClient.set_experiment_tag
    written: list[str] = []

    def once(self: MlflowClient, *arguments: str) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(arguments[1])
        write(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_experiment_tag", once)
        with pytest.raises(KeyboardInterrupt):
            adopt_store(copy)
    assert read_store_id(copy).doubt
    assert adopt_store(copy)
    assert read_store_id(copy).doubt == ""


def test_login_without_rights_identifies_postgresql_as_its_owner_does(postgres: str) -> None:
    import psycopg

    from tests.conftest import create_database

    uri = create_database(postgres, "ownership_login").replace(
        "postgresql", "postgresql+psycopg", 1
    )
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute("create role plain login")
    assert identity.identify_database(
        uri.replace("eyevsai@", "plain@")
    ) == identity.identify_database(uri)
