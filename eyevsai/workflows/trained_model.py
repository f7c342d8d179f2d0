"""What a job is about: a trained model, found by its run or its version, with all that its run
logged of it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.legacy_names import rename_settings
from eyevsai.data.dataset import SPLIT_TABLE, Dataset, load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.learner import Learner
from eyevsai.models.serialization import load, read_config
from eyevsai.registry.versions import Version, find_version, model_id_of, version_of_run
from eyevsai.store.tags import DATASET_DIGEST, EVALUATION_WEIGHTS, JOB
from eyevsai.tracking.search import RunInfo, find_evaluations, find_run, read_json, read_text
from eyevsai.workflows.evaluate.log_results import OWN_SPLIT

log = logging.getLogger("eyevsai")

CONFIG = "config.json"
ORIGIN = "training"  # the entry of a package's metadata about its training run


@dataclass(frozen=True)
class Origin:
    """What a version carries of the training run that it is from, for when the run is gone."""

    config: Mapping[str, Any]
    fingerprint: str
    split_sha256: str


def describe_origin(config: Mapping[str, Any], dataset: Dataset) -> dict[str, Any]:
    """Return the entry of a package's metadata that `read_origin` reads."""
    origin = {
        "config": dict(config),
        "fingerprint": dataset.fingerprint,
        "split_sha256": dataset.split_sha256,
    }
    return {ORIGIN: json.loads(json.dumps(origin))}


def read_origin(package: Path) -> Origin | None:
    """Return what a package carries of its training run; None if it was written before packages
    carried it.
    """
    from eyevsai.serving.model_dir import read_metadata

    found = read_metadata(package).get(ORIGIN)
    return (
        None
        if found is None
        else Origin(rename_settings(found["config"]), found["fingerprint"], found["split_sha256"])
    )


@dataclass(frozen=True)
class TrainedModel:
    """A trained model: a registered version, or the model of a run. The run of a version may be
    gone.
    """

    run_id: str
    run: RunInfo | None
    version: Version | None
    package: Path
    config: Mapping[str, Any]
    tracking_uri: str

    @property
    def title(self) -> str:
        """What people call it."""
        return self.version.uri if self.version else f"run {self.run_id}"

    @property
    def name(self) -> str:
        """The name of its run; that of its version if the run is gone."""
        return self.run.name if self.run else self.title

    @property
    def folder_name(self) -> str:
        """`pets-deep_v2-resnet-7`, or the run's id: what a folder of its exports is called."""
        return (
            self.version.uri.removeprefix("models:/").replace("/", "-")
            if self.version
            else self.run_id
        )

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return int(self.config["seed"])

    @property
    def weights(self) -> str:
        """The SHA-256 of its weights."""
        from eyevsai.serving.model_dir import MODEL_FOLDER

        return str(read_config(self.package / MODEL_FOLDER)["sha256"])

    @property
    def model_id(self) -> str | None:
        """The id of its logged model, if it has one."""
        if self.run is not None:
            return self.run.model_uri.removeprefix("models:/") if self.run.model_uri else None
        return model_id_of(self.tracking_uri, self.version) if self.version else None

    def load(self) -> Learner:
        """The learner; its weights are held against their checksum."""
        from eyevsai.serving.model_dir import MODEL_FOLDER

        return load(self.package / MODEL_FOLDER)

    def split_table(self) -> str | None:
        """The table of the images that it learned from; None if its run has none or is gone."""
        return read_text(self.tracking_uri, self.run_id, SPLIT_TABLE) if self.run else None

    def evaluation_result(self) -> RunInfo | None:
        """The run that holds its evaluation by its own test split: its own, or one of a later call
        if that is gone.
        """
        if self.run is not None:
            return self.run
        own = (
            each
            for each in find_evaluations(self.tracking_uri, self.run_id)
            if each.tags.get(EVALUATION_WEIGHTS) == self.weights
            and each.tags.get(OWN_SPLIT) == "True"
        )
        return next(own, None)

    def load_dataset(self, **places: str | None) -> Dataset:
        """The data that the model learned from, shared out as they were then; `places` are folders
        that moved.

        Raises:
            UserError: they are not there, or are not what they were.
        """
        known = {field.name for field in fields(DataSettings)}
        given = {name: value for name, value in self.config.items() if name in known}
        given.setdefault("split_seed", self.seed)  # which runs before --split-seed split by
        settings = DataSettings(
            **given | {name: value for name, value in places.items() if value is not None}
        )
        dataset = load_dataset(settings)
        if dataset.fingerprint != self._fingerprint():
            raise UserError(
                f"The images of {dataset.name} are not those that {self.title} learned from: by "
                "today's split it could be judged by images that it knows. Bring them back, or "
                "judge it by others with --data FOLDER."
            )
        if not self._is_split_as_then(dataset):
            raise UserError(
                f"Today the images of {dataset.name} are split otherwise than when {self.title} "
                "learned from them, by another version of Pillow or of eyevsai: it could be "
                "judged by images that it knows. Judge it where it was trained, or by others "
                "with --data FOLDER."
            )
        return dataset

    def _fingerprint(self) -> str | None:
        if self.run is not None:
            return self.run.tags.get(DATASET_DIGEST)
        origin = read_origin(self.package)
        return origin.fingerprint if origin else None

    def _is_split_as_then(self, dataset: Dataset) -> bool:
        table = self.split_table()
        if table is not None:
            return table == dataset.split_table()
        origin = read_origin(self.package)
        return origin is None or origin.split_sha256 == dataset.split_sha256


def find_trained_model(
    tracking_uri: str, run_id: str | None, model_uri: str | None
) -> TrainedModel:
    """The model of a run, or of a version.

    The run of a version may have been deleted: a version carries what it takes to evaluate and
    export it.

    Raises:
        UserError: there is no such run or version, it has no model, or its folder holds what
            eyevsai does not write.
    """
    from eyevsai.serving.model_dir import fetch_model_dir

    version = find_version(tracking_uri, model_uri) if model_uri else None
    found_id = version.run_id if version else str(run_id)
    if version is not None and not found_id:
        raise UserError(
            f"{version.uri} was registered without a run, so eyevsai knows nothing of its data."
        )
    try:
        run = find_run(tracking_uri, found_id)
    except UserError:
        if version is None:
            raise
        return _find_without_run(tracking_uri, version)
    version = version or version_of_run(tracking_uri, found_id)
    uri = version.uri if version else run.model_uri
    if uri is None:
        why = (
            f"it is {run.status}"
            if run.status != "FINISHED"
            else f"it is of job {run.tags.get(JOB, 'unknown')}"
        )
        raise UserError(
            f"Run {found_id} has no model: {why}. Name a finished training run; `eyevsai ui` "
            "shows them."
        )
    package = fetch_model_dir(uri)
    config = read_json(tracking_uri, found_id, CONFIG)
    if config is None and version is not None:
        config = getattr(read_origin(package), "config", None)
    if config is None:
        raise UserError(
            f"Run {found_id} has no {CONFIG}: eyevsai did not train it, or its files were deleted."
        )
    return TrainedModel(found_id, run, version, package, rename_settings(config), tracking_uri)


def _find_without_run(tracking_uri: str, version: Version) -> TrainedModel:
    from eyevsai.serving.model_dir import fetch_model_dir

    package = fetch_model_dir(version.uri)
    origin = read_origin(package)
    if origin is None:
        raise UserError(
            f"Run {version.run_id} of {version.uri} is gone, and the version is older than those "
            "that carry their settings. If it was deleted in MLflow's UI: mlflow runs restore "
            f"--run-id {version.run_id}"
        )
    log.info(
        "Run %s of %s is gone: what the version carries is used instead.",
        version.run_id,
        version.uri,
    )
    return TrainedModel(version.run_id, None, version, package, origin.config, tracking_uri)
