"""Artifact folders of runs and logged models: location, size and deletion."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from pathlib import Path

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.uri import is_local_uri

from eyevsai.core.errors import UserError
from eyevsai.store.identity import StoreId
from eyevsai.store.ownership import read_mark, write_mark
from eyevsai.store.paging import list_experiments

MODELS = "models"  # folder of the logged models, below an experiment's artifact location


class Artifacts:
    """Artifact locations of all experiments of a store, deleted experiments included."""

    def __init__(self, client: MlflowClient) -> None:
        self.tracking_uri = client.tracking_uri
        experiments = list_experiments(client, deleted=True)
        self.experiment_ids = [experiment.experiment_id for experiment in experiments]
        local = {
            each.artifact_location for each in experiments if is_local_uri(each.artifact_location)
        }
        self.roots = sorted(Path(local_file_uri_to_path(location)) for location in local)

    def folders_of(self, run_id: str, model_ids: tuple[str, ...] = ()) -> list[Path]:
        """Return the existing local folders of a run and of logged models."""
        names = [run_id, *(f"{MODELS}/{model_id}" for model_id in model_ids)]
        folders = (root / name for root in self.roots for name in names)
        return [folder for folder in folders if folder.is_dir()]

    def check(self, uri: str, name: str, store: StoreId) -> None:
        """Raise UserError unless the files at an artifact location may be deleted from here.

        A remote location passes unless the store is in doubt.

        Args:
            uri: artifact location of a run or a logged model.
            name: id of that run or logged model, and name of its folder.
            store: identity of the store that refers to the location.

        Raises:
            UserError: the identity of the store is in doubt, the folder has the owner mark of
                another store, it is not the folder of `name` below the artifacts of this store, or
                it is on the machine of the tracking server.
        """
        if store.doubt:
            raise UserError(
                f"its files may belong to another store: {store.doubt}. If this store is "
                "independent, run: eyevsai doctor --adopt"
            )
        if not is_local_uri(uri):
            return
        folder = _folder(uri)
        mark = read_mark(folder)
        if mark is not None and mark.store not in store.ids:
            raise UserError(f"{folder} is not deleted: it has the owner mark of another store.")
        root = next((root for root in self.roots if _is_below(folder, root)), None)
        if root is None or folder.name != name:
            raise UserError(
                f"{folder} is not deleted: it is not the folder of {name} below the artifacts of "
                "this store."
            )
        if self.tracking_uri.startswith("http") and not root.is_dir():
            raise UserError(
                f"{root} is on the machine of the tracking server. Run the cleanup there."
            )

    def take_over(self, names: Collection[str], former: Collection[str], store: str) -> int:
        """Transfer the owner marks on local folders from former stores to a store.

        Folders without a mark of a former store are unchanged.

        Args:
            names: ids of runs and logged models.
            former: ids of the former stores.
            store: id of the new owner.

        Returns:
            The number of folders that changed owner.
        """
        folders = [root / name for root in self.roots for name in names] + [
            root / MODELS / name for root in self.roots for name in names
        ]
        marked = [(folder, read_mark(folder)) for folder in folders]
        former_folders = [
            folder for folder, mark in marked if mark is not None and mark.store in former
        ]
        for folder in former_folders:
            write_mark(folder, store)
        return len(former_folders)

    def erase(self, uri: str) -> int:
        """Delete the files at a location and return the number of bytes freed.

        Call `check` first: it raises for locations that must not be deleted.
        """
        if is_local_uri(uri):
            return erase(_folder(uri))
        repository = get_artifact_repository(uri, tracking_uri=self.tracking_uri)
        freed = _remote_size(repository, None)
        repository.delete_artifacts()
        return freed

    def size_of(self, uri: str) -> int:
        """Return the size of the files at a location in bytes."""
        if is_local_uri(uri):
            return size_of(_folder(uri))
        return _remote_size(get_artifact_repository(uri, tracking_uri=self.tracking_uri), None)


def has_files(tracking_uri: str, run_id: str, folder: str) -> bool:
    """Return True if a run has artifacts below a folder.

    Args:
        tracking_uri: URI of the tracking store.
        run_id: id of the run.
        folder: path relative to the artifacts of the run.
    """
    return bool(MlflowClient(tracking_uri=tracking_uri).list_artifacts(run_id, folder))


def locate(tracking_uri: str, uri: str) -> tuple[str | None, bool]:
    """Return the local folder of an artifact location, and True if its files are missing.

    The folder is None if the location is remote, or if its folder is empty or does not exist. Files
    are missing only if they should be on this machine: a tracking server can name folders of its
    own machine.
    """
    folder = Path(local_file_uri_to_path(uri)).absolute() if is_local_uri(uri) else None
    if folder is not None and folder.is_dir() and any(folder.iterdir()):
        return str(folder), False
    return None, folder is not None and not tracking_uri.startswith("http")


def erase(path: Path) -> int:
    """Delete a local file or folder, if it exists, and return the number of bytes freed.

    Raises:
        OSError: some of it could not be deleted.
    """
    freed = size_of(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return freed


def size_of(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, in bytes.

    Links are not followed. A path that cannot be read counts as empty.
    """
    try:
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        with os.scandir(path) as entries:
            return sum(
                size_of(Path(entry.path))
                if entry.is_dir(follow_symlinks=False)
                else entry.stat(follow_symlinks=False).st_size
                for entry in entries
            )
    except OSError:  # deleted concurrently, or unreadable
        return 0


def _folder(uri: str) -> Path:
    """Return the folder that is named after the run or logged model.

    It is the parent of the folder `artifacts`, which MLflow adds.
    """
    path = Path(local_file_uri_to_path(uri))
    return path.parent if path.name == "artifacts" else path


def _is_below(folder: Path, root: Path) -> bool:
    """Return True if a folder is below a root, and no link leads elsewhere."""
    real, above = folder.resolve(), root.resolve()
    return above in real.parents and real.name == folder.name


def _remote_size(repository: ArtifactRepository, folder: str | None) -> int:
    """Return the size of all artifacts below a folder of a remote repository in bytes."""
    entries = repository.list_artifacts(folder)
    return sum(
        _remote_size(repository, each.path) if each.is_dir else int(each.file_size or 0)
        for each in entries
    )
