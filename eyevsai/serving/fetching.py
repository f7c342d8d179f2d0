"""Local copies of the artifacts of runs and registered versions."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.config import compose_data
from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import parse_model
from eyevsai.core.paths import expand
from eyevsai.data.disk_cache import MODELS, DiskCache

if TYPE_CHECKING:
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

log = logging.getLogger("eyevsai")

FETCHED = "artifacts"  # folder with the files in an entry of the cache


def fetch_artifacts(uri: str, *, fresh: bool = False) -> Path:
    """Return the local file or folder of `models:/...` or `runs:/...`.

    Artifacts on a local disk are used in place. Others are downloaded into the cache. The key of
    the cache entry is the location, which contains the id of the model or run, and the names and
    sizes of the files. The checksums of the copy are verified each time.

    Args:
        uri: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `models:/m-ID` or `runs:/RUN/PATH`.
        fresh: download the artifacts even if they are in the cache, for instance to verify the
            store's own files.

    Raises:
        UserError: the artifacts do not exist, the store is unreachable, or the cache cannot be
            written.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import is_local_uri

    from eyevsai.store.backend import open_store
    from eyevsai.store.uris import mask_password

    store = open_store()
    try:
        location, path = _resolve(store, uri)
        if is_local_uri(location):
            target = Path(local_file_uri_to_path(location)) / path
            if not target.exists() or (target.is_dir() and not any(target.iterdir())):
                raise _missing_error(uri, str(target), on_server=store.startswith("http"))
            return target
        repository = get_artifact_repository(location, tracking_uri=store)
        files = sorted(_list_files(repository, path))
        if not files:
            raise _missing_error(uri, f"{mask_password(location)}/{path}".rstrip("/"))
        return _fetch(
            repository,
            path,
            f"{mask_password(store)} {mask_password(location)} {path} {files}",
            fresh=fresh,
        )
    except (MlflowException, OSError) as error:
        raise UserError(
            f"Cannot load {uri} from the store {mask_password(store)}: {mask_password(str(error))}"
        ) from error


def _resolve(store: str, uri: str) -> tuple[str, str]:
    """Return the location of a model or run in the artifact store, and the path below it."""
    from mlflow import MlflowClient

    from eyevsai.registry.lookup import find_version

    # MLflow's own parser would cut the name of a registered model at a question mark
    client, reference = MlflowClient(tracking_uri=store), parse_model(uri)
    if reference.model_id is not None:
        return str(client.get_logged_model(reference.model_id).artifact_location), ""
    if reference.run_id is None:
        version = find_version(store, reference)
        return str(client.get_model_version_download_uri(version.name, version.number)), ""
    run, path = client.get_run(reference.run_id), reference.artifact
    name, _, rest = path.partition("/")
    for output in run.outputs.model_outputs if run.outputs else []:
        model = client.get_logged_model(output.model_id)
        if model.name == name:  # a logged model has the URI of a folder of its run
            return str(model.artifact_location), rest
    return str(run.info.artifact_uri), path


def _list_files(repository: ArtifactRepository, path: str) -> Iterator[tuple[str, int]]:
    """Yield the path and the size, in bytes, of each file below a path."""
    for info in repository.list_artifacts(path or None):
        if info.is_dir:
            yield from _list_files(repository, info.path)
        else:
            yield info.path, int(info.file_size or 0)


def _fetch(repository: ArtifactRepository, path: str, key: str, *, fresh: bool) -> Path:
    def build(folder: Path) -> dict[str, Any]:
        """Download the artifacts into an empty folder; return the notes of the cache entry."""
        (folder / FETCHED).mkdir()
        try:
            repository.download_artifacts(path, str(folder / FETCHED))
        except OSError as error:  # of the network; the cache reports its own
            raise UserError(f"The download of {repository.artifact_uri} failed: {error}") from error
        return {"location": repository.artifact_uri, "path": path}

    settings = compose_data({})
    root = expand(settings.cache_dir)
    if not _can_write(root / MODELS):
        log.info(
            "The cache %s is not writable: the model is downloaded for this process only.", root
        )
        folder = Path(tempfile.mkdtemp(prefix="eyevsai-model-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        build(folder)
        return folder / FETCHED / path
    # evicts models only: the entries of other kinds may have been cached with a higher limit
    cache = DiskCache(root, settings.cache_limit_gb, evicted=(MODELS,))
    return cache.open(MODELS, key, build, lambda entry: entry / FETCHED / path, fresh=fresh)


def _can_write(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _missing_error(uri: str, location: str, *, on_server: bool = False) -> UserError:
    hint = (
        " If they are on the server's machine, start it with `mlflow server --serve-artifacts`."
        if on_server
        else ""
    )
    return UserError(
        f"The files of {uri} are missing: {location} is empty or does not exist.{hint} Restore "
        "them from a backup, or train the model again."
    )
