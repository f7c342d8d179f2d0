"""Where runs and logged models keep their files, how large those are, and how they are erased."""

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

MODELS = "models"  # the folder of logged models below an experiment's location


class Artifacts:
    """The files of all experiments of a store."""

    def __init__(self, client: MlflowClient) -> None:
        self.tracking_uri = client.tracking_uri
        experiments = list_experiments(client, deleted=True)
        self.experiment_ids = [experiment.experiment_id for experiment in experiments]
        local = {
            each.artifact_location for each in experiments if is_local_uri(each.artifact_location)
        }
        self.roots = sorted(Path(local_file_uri_to_path(location)) for location in local)

    def folders_of(self, run_id: str, model_ids: tuple[str, ...] = ()) -> list[Path]:
        """The local folders of a run and of logged models, as MLflow names them, that are there."""
        names = [run_id, *(f"{MODELS}/{model_id}" for model_id in model_ids)]
        folders = (root / name for root in self.roots for name in names)
        return [folder for folder in folders if folder.is_dir()]

    def check(self, uri: str, name: str, store: StoreId) -> None:
        """Raises UserError when files cannot be erased from here without a risk for others'."""
        if store.doubt:
            raise UserError(
                f"its files may be the original's: {store.doubt}. If it is a store of its own: "
                "eyevsai doctor --adopt"
            )
        if not is_local_uri(uri):
            return
        folder = _folder(uri)
        mark = read_mark(folder)
        if mark is not None and mark.store not in store.ids:
            raise UserError(f"{folder} is marked as another store's: it is left alone.")
        root = next((root for root in self.roots if _is_below(folder, root)), None)
        if root is None or folder.name != name:
            raise UserError(
                f"{folder} is no folder of {name} below the artifacts of this store: it is left "
                "alone."
            )
        if self.tracking_uri.startswith("http") and not root.is_dir():
            raise UserError(f"{root} is on the server's machine: clean up there.")

    def take_over(self, names: Collection[str], former: Collection[str], store: str) -> int:
        """Mark the local folders of runs and logged models that have a mark of a `former` store as
        those of `store`.

        Returns the number of folders.
        """
        folders = [root / name for root in self.roots for name in names] + [
            root / MODELS / name for root in self.roots for name in names
        ]
        marked = [(folder, read_mark(folder)) for folder in folders]
        own = [folder for folder, mark in marked if mark is not None and mark.store in former]
        for folder in own:
            write_mark(folder, store)
        return len(own)

    def erase(self, uri: str) -> int:
        """Deletes what lies at a location that `check` passed; returns the bytes that were
        freed.
        """
        if is_local_uri(uri):
            return erase(_folder(uri))
        repository = get_artifact_repository(uri, tracking_uri=self.tracking_uri)
        freed = _listed(repository, None)
        repository.delete_artifacts()
        return freed

    def size_of(self, uri: str) -> int:
        """What lies at a location, in bytes."""
        if is_local_uri(uri):
            return size_of(_folder(uri))
        return _listed(get_artifact_repository(uri, tracking_uri=self.tracking_uri), None)


def has_files(tracking_uri: str, run_id: str, folder: str) -> bool:
    """Whether a run keeps artifacts below `folder`."""
    return bool(MlflowClient(tracking_uri=tracking_uri).list_artifacts(run_id, folder))


def locate(tracking_uri: str, uri: str) -> tuple[str | None, bool]:
    """The folder of this machine that an artifact location names, and whether it is not where it
    ought to be.

    None is no reason to worry where a server names a folder of its own, or files lie elsewhere.
    """
    folder = Path(local_file_uri_to_path(uri)).absolute() if is_local_uri(uri) else None
    if folder is not None and folder.is_dir() and any(folder.iterdir()):
        return str(folder), False
    return None, folder is not None and not tracking_uri.startswith("http")


def erase(path: Path) -> int:
    """Deletes a local file or folder, if it is there; returns the bytes that were freed.

    Raises:
        OSError: not all of it could be deleted.
    """
    freed = size_of(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return freed


def size_of(path: Path) -> int:
    """The bytes of a file, or of all files in a folder; links are not followed."""
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
    except OSError:  # gone, just now
        return 0


def _folder(uri: str) -> Path:
    """The folder that is named after the run or logged model; MLflow puts its files one deeper."""
    path = Path(local_file_uri_to_path(uri))
    return path.parent if path.name == "artifacts" else path


def _is_below(folder: Path, root: Path) -> bool:
    real, above = folder.resolve(), root.resolve()
    return above in real.parents and real.name == folder.name


def _listed(repository: ArtifactRepository, folder: str | None) -> int:
    found = repository.list_artifacts(folder)
    return sum(
        _listed(repository, each.path) if each.is_dir else int(each.file_size or 0)
        for each in found
    )
