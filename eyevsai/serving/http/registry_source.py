"""Versions of one registered model, read from the registry and loaded with all checks."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.core.errors import UserError, first_line
from eyevsai.core.model_ref import SCHEME, parse_model
from eyevsai.models.serialization import load
from eyevsai.serving.classifier import Classifier, make_classifier, open_model
from eyevsai.serving.http.routing import RegistryState
from eyevsai.serving.http.versions import (
    LEARNER,
    LoadedVersion,
    Reader,
    measure_batch_size,
    probe,
    read_example,
)
from eyevsai.serving.images import decode_cell, decode_image
from eyevsai.serving.model_dir import MODEL_FOLDER, check_model_dir, fetch_model_dir
from eyevsai.serving.version_files import check_version_files
from eyevsai.store.backend import open_store
from eyevsai.store.uris import mask_password

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("eyevsai")

CUDA = "cuda"


@dataclass(frozen=True)
class LoadOptions:
    """Options for the loading of versions.

    Attributes:
        read: decoder of images.
        is_logged: measure the statistics of images for the log.
        device: `cpu`, or `cuda` for networks on a GPU, which get images in batches.
    """

    read: Reader = field(default=decode_image)
    is_logged: bool = False
    device: str = "cpu"


class RegistrySource:
    """Registered model, as its server reads it.

    Args:
        name: name of the registered model.
        options: how versions are loaded.
    """

    def __init__(self, name: str, options: LoadOptions) -> None:
        self.name, self.options = name, options
        self._client: MlflowClient | None = None

    def read_state(self) -> RegistryState:
        """Return the aliases and tags of the model, with one request.

        Raises:
            UserError: the store is unreachable or unusable, or there is no such model.
        """
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        from eyevsai.registry.entities import missing_model
        from eyevsai.store.backend import MISSING_OR_INVALID

        if self._client is None:
            self._client = MlflowClient(tracking_uri=open_store())
        try:
            entity = self._client.get_registered_model(self.name)
        except MlflowException as error:
            if error.error_code in MISSING_OR_INVALID:
                raise missing_model(self._client, self.name) from error
            raise _unreachable(error) from error
        except Exception as error:  # database drivers raise errors of many classes
            raise _unreachable(error) from error
        aliases = {alias: int(number) for alias, number in entity.aliases.items()}
        return RegistryState(aliases, dict(entity.tags))

    def load(self, number: int) -> FetchedVersion:
        """Fetch a version, compare its files with their checksums, and load and probe it.

        Raises:
            UserError: the version does not exist, its files are missing, were changed or are not
                those of eyevsai, or it cannot predict.
        """
        from eyevsai.registry.lookup import find_version

        try:
            store = open_store()
            version = find_version(store, parse_model(f"{SCHEME}{self.name}/{number}"))
            folder = fetch_model_dir(version.uri)
            weights, _ = check_version_files(store, version, folder)
            loaded = load_folder(self.name, number, folder, version.threshold, self.options)
        except UserError:
            raise
        except Exception as error:  # of the store, or of a runtime that opens a damaged file
            raise UserError(
                f"{SCHEME}{self.name}/{number} cannot be loaded: {mask_password(first_line(error))}"
            ) from error
        return FetchedVersion(loaded, folder, version.threshold, weights)


@dataclass(frozen=True)
class FetchedVersion:
    """Loaded version with its model directory, threshold and the SHA-256 of its weights."""

    version: LoadedVersion
    folder: Path
    threshold: float | None
    weights: str


def load_folder(
    name: str, number: int, folder: Path, threshold: float | None, options: LoadOptions
) -> LoadedVersion:
    """Load and probe the version in a model directory.

    Args:
        name: name of the registered model.
        number: number of the version.
        folder: model directory.
        threshold: threshold of the version; None for that of its export.
        options: how it is loaded.

    Raises:
        UserError: the directory is not valid, or the version cannot predict.
    """
    check_model_dir(folder)
    classifier = _open(folder / MODEL_FOLDER, threshold, options.device)
    # not by `options.read`, whose memory for images can be full of those of clients
    version = LoadedVersion(name, number, classifier, decode_cell, is_logged=options.is_logged)
    probe(version, folder)
    if version.format == LEARNER and options.device != CUDA:
        log.warning(
            "%s has no ONNX export: its learner answers, which takes longer. Export it with: "
            "eyevsai export %s --format onnx",
            version.uri,
            version.uri.removeprefix(SCHEME),
        )
    version.batch_size = measure_batch_size(version, read_example(folder))
    version.read = options.read
    if version.batch_size > 1:
        log.debug("%s predicts up to %d images at once.", version.uri, version.batch_size)
    return version


def _open(folder: Path, threshold: float | None, device: str) -> Classifier:
    """Return the classifier of a version: its network on a GPU, else its ONNX export or learner."""
    if device == CUDA:
        learner: Any = load(folder)
        if hasattr(learner, "network"):
            learner.network = learner.network.to(CUDA)
            return make_classifier(learner, threshold)
    return open_model(folder, threshold)


def _unreachable(error: Exception) -> UserError:
    return UserError(f"The registry is unreachable: {mask_password(first_line(error))}")
