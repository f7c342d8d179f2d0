"""Trained model as the source of a job, found by its run or its registered version."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import ModelRef, check_trained, parse_model
from eyevsai.core.names import to_file_name
from eyevsai.data.dataset import SPLIT_TABLE, Dataset, load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import complete_settings
from eyevsai.models.learner import Learner
from eyevsai.models.serialization import load, read_config
from eyevsai.registry.lookup import find_dataset, find_version
from eyevsai.registry.versions import Version, model_id_of, version_of_run
from eyevsai.store.tags import DATASET_DIGEST, EVALUATION_WEIGHTS, JOB
from eyevsai.store.ui_links import make_link, run_page
from eyevsai.tracking.search import RunInfo, find_evaluations, find_run, read_json, read_text
from eyevsai.workflows.evaluate.log_results import OWN_SPLIT

log = logging.getLogger("eyevsai")

CONFIG = "config.json"
ORIGIN = "training"  # key in the metadata of a model directory


@dataclass(frozen=True)
class Origin:
    """Facts about the training run in a model directory, for use after the run was deleted."""

    config: Mapping[str, Any]  # settings of `train` by name
    fingerprint: str  # digest of the dataset
    split_sha256: str


def describe_origin(config: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Return the metadata for a model directory from which `read_origin` restores an Origin."""
    origin = {
        "config": dict(config),
        "fingerprint": dataset.fingerprint,
        "split_sha256": dataset.split_sha256,
    }
    return {ORIGIN: json.loads(json.dumps(origin))}


def read_origin(model_dir: Path) -> Origin | None:
    """Return the facts about the training run in a model directory.

    Returns None if an earlier version, which did not store them, wrote the directory.
    """
    from eyevsai.serving.model_dir import read_metadata

    values = read_metadata(model_dir).get(ORIGIN)
    if values is None:
        return None
    config = complete_settings(values["config"])
    return Origin(config, values["fingerprint"], values["split_sha256"])


@dataclass(frozen=True)
class TrainedModel:
    """Registered version, or model of a run that is not registered."""

    run_id: str
    run: RunInfo | None  # None if the run was deleted
    version: Version | None  # None if the model is not registered
    model_dir: Path  # local
    config: Mapping[str, Any]  # settings of `train` by name
    tracking_uri: str

    @property
    def title(self) -> str:
        """URI of the version, or `run ID`, for messages."""
        return self.version.uri if self.version else f"run {self.run_id}"

    @property
    def argument(self) -> str:
        """Reference to the model, quoted for a shell, as the commands take it."""
        return self.version.argument if self.version else self.run_id

    @property
    def name(self) -> str:
        """Name of the run, or the title if the run was deleted."""
        return self.run.name if self.run else self.title

    @property
    def run_url(self) -> str | None:
        """URL of the page of the training run in MLflow's UI; None if the run was deleted."""
        if self.run is None:
            return None
        return make_link(self.tracking_uri, run_page(self.run.experiment_id, self.run_id))

    @property
    def folder_name(self) -> str:
        """Folder name for exports: such as `pets-deep_v2-resnet-7`, or the run id."""
        if self.version is None:
            return self.run_id
        return f"{to_file_name(self.version.name)}-{self.version.number}"

    def dataset_tags(self) -> dict[str, str]:
        """Return the tag of a run about this model with its dataset; empty if that is unknown.

        The tag determines the experiment of the run.
        """
        if self.run is not None:
            dataset = self.run.tags.get("dataset")
        else:
            dataset = find_dataset(self.tracking_uri, self.version.name) if self.version else None
        return {"dataset": dataset} if dataset else {}

    @property
    def seed(self) -> int:
        """Seed of the training run."""
        return int(self.config["seed"])

    @property
    def weights(self) -> str:
        """SHA-256 of the weights, as recorded in the model directory."""
        from eyevsai.serving.model_dir import MODEL_FOLDER

        return str(read_config(self.model_dir / MODEL_FOLDER)["sha256"])

    @property
    def model_id(self) -> str | None:
        """Id of the logged model; None if there is none."""
        if self.run is not None:
            return self.run.model_uri.removeprefix("models:/") if self.run.model_uri else None
        return model_id_of(self.tracking_uri, self.version) if self.version else None

    def load(self) -> Learner:
        """Return the learner with its trained weights.

        Raises:
            UserError: the model directory is damaged, for example its weights do not match their
                checksum.
        """
        from eyevsai.serving.model_dir import MODEL_FOLDER

        return load(self.model_dir / MODEL_FOLDER)

    def split_table(self) -> str | None:
        """Return the split of each image of the training run as CSV.

        Returns None if the run was deleted or did not log it.
        """
        return read_text(self.tracking_uri, self.run_id, SPLIT_TABLE) if self.run else None

    def evaluation_result(self) -> RunInfo | None:
        """Return the run with the metrics on the model's own test split.

        This is the training run, or, if that was deleted, an evaluation run of the same weights, or
        None.
        """
        if self.run is not None:
            return self.run
        evaluations = (
            each
            for each in find_evaluations(self.tracking_uri, self.run_id)
            if each.tags.get(EVALUATION_WEIGHTS) == self.weights
            and each.tags.get(OWN_SPLIT) == "True"
        )
        return next(evaluations, None)

    def load_dataset(self, **folders: str | None) -> Dataset:
        """Return the dataset of the training run with the same split.

        Args:
            folders: data settings to override, such as `data_dir`, for folders that have moved;
                None keeps the value of the training run.

        Raises:
            UserError: the dataset does not exist, or its images or its split changed.
        """
        names = {field.name for field in fields(DataSettings)}
        values = {name: value for name, value in self.config.items() if name in names}
        settings = DataSettings(
            **values | {name: value for name, value in folders.items() if value is not None}
        )
        dataset = load_dataset(settings)
        if dataset.fingerprint != self._dataset_digest():
            raise UserError(
                f"The images of {dataset.name} changed since {self.title} was trained: evaluation "
                "images could overlap with the training images. Restore them, or use other "
                "images with --data FOLDER."
            )
        if not self._has_same_split(dataset):
            raise UserError(
                f"The split of {dataset.name} changed since {self.title} was trained, because "
                "another version of Pillow or eyevsai is installed: evaluation images could "
                "overlap with the training images. Use the original versions, or other images "
                "with --data FOLDER."
            )
        return dataset

    def _dataset_digest(self) -> str | None:
        """Return the digest of the training run's dataset; None if it was not recorded."""
        if self.run is not None:
            return self.run.tags.get(DATASET_DIGEST)
        origin = read_origin(self.model_dir)
        return origin.fingerprint if origin else None

    def _has_same_split(self, dataset: Dataset) -> bool:
        """Return True if the split is that of the training run, or if that was not recorded."""
        table = self.split_table()
        if table is not None:
            return table == dataset.split_table()
        origin = read_origin(self.model_dir)
        return origin is None or origin.split_sha256 == dataset.split_sha256


def find_trained_model(tracking_uri: str, model: str | ModelRef) -> TrainedModel:
    """Return the model of a run or of a registered version.

    If the run of a version was deleted, its settings are read from the model directory.

    Args:
        tracking_uri: store with the run or version.
        model: reference to the version, the run, or its logged model.

    Raises:
        UserError: the run or version does not exist or has no model or settings, the reference is
            a path or an export, or the model directory contains files that eyevsai does not write.
    """
    from eyevsai.serving.model_dir import fetch_model_dir

    reference = parse_model(model) if isinstance(model, str) else model
    check_trained(reference)
    version = find_version(tracking_uri, reference) if reference.run_id is None else None
    source_id = version.run_id if version else str(reference.run_id)
    if version is not None and not source_id:
        raise UserError(
            f"Cannot use {version.uri}: it was registered without a run, so that its training "
            "data are unknown."
        )
    try:
        run = find_run(tracking_uri, source_id)
    except UserError:
        if version is None:
            raise
        return _find_without_run(tracking_uri, version)
    version = version or version_of_run(tracking_uri, source_id)
    uri = version.uri if version else run.model_uri
    if uri is None:
        job = run.tags.get(JOB, "unknown")
        reason = f"its job is {job}" if run.status == "FINISHED" else f"it is {run.status}"
        raise UserError(
            f"Run {source_id} has no model: {reason}. Use a finished training run; `eyevsai ui` "
            "lists them."
        )
    model_dir = fetch_model_dir(uri)
    config = read_json(tracking_uri, source_id, CONFIG)
    if config is None and version is not None:
        config = getattr(read_origin(model_dir), "config", None)
    if config is None:
        raise UserError(
            f"Run {source_id} has no {CONFIG}: eyevsai did not train it, or its files were deleted."
        )
    return TrainedModel(source_id, run, version, model_dir, complete_settings(config), tracking_uri)


def _find_without_run(tracking_uri: str, version: Version) -> TrainedModel:
    """Return the model of a version whose run was deleted, with the settings stored with it.

    Raises:
        UserError: an earlier version of eyevsai, which did not store them, registered it.
    """
    from eyevsai.serving.model_dir import fetch_model_dir

    model_dir = fetch_model_dir(version.uri)
    origin = read_origin(model_dir)
    if origin is None:
        raise UserError(
            f"Run {version.run_id} of {version.uri} was deleted, and an earlier eyevsai registered "
            "the version without its settings. If the run was deleted in MLflow's UI, restore it: "
            f"mlflow runs restore --run-id {version.run_id}"
        )
    log.info(
        "Run %s of %s was deleted; using the settings stored with the version.",
        version.run_id,
        version.uri,
    )
    return TrainedModel(version.run_id, None, version, model_dir, origin.config, tracking_uri)
