"""What a job is about: a trained model, found by its run or its version, with all that its run logged of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.data.dataset import SPLIT_TABLE, Dataset, load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.errors import UserError
from eyevsai.models.learner import Learner, load, read_card

if TYPE_CHECKING:
    from eyevsai.registry.versions import Version
    from eyevsai.tracking.search import FoundRun

CONFIG = "config.json"


@dataclass(frozen=True)
class Subject:
    """A trained model."""

    run: FoundRun
    version: Version | None
    package: Path
    config: Mapping[str, Any]
    tracking_uri: str

    @property
    def title(self) -> str:
        """What people call it."""
        return self.version.uri if self.version else f"run {self.run.run_id}"

    @property
    def folder_name(self) -> str:
        """`pets-deep_v2-resnet-7`, or the run's id: what a folder of its exports is called."""
        return self.version.uri.removeprefix("models:/").replace("/", "-") if self.version else self.run.run_id

    @property
    def seed(self) -> int:
        """The seed of its split and of its training."""
        return int(self.config["seed"])

    @property
    def weights(self) -> str:
        """The SHA-256 of its weights."""
        from eyevsai.serving.package import MODEL_FOLDER

        return str(read_card(self.package / MODEL_FOLDER)["sha256"])

    def load(self) -> Learner:
        """The learner; its weights are held against their checksum."""
        from eyevsai.serving.package import MODEL_FOLDER

        return load(self.package / MODEL_FOLDER)

    def load_dataset(self, **places: str | None) -> Dataset:
        """The data that the model learned from, shared out as they were then; `places` are folders that moved.

        Raises:
            UserError: they are not there, or are not what they were.
        """
        from eyevsai.tracking.search import read_text

        known = {field.name for field in fields(DataSettings)}
        given = {name: value for name, value in self.config.items() if name in known}
        settings = DataSettings(**given | {name: value for name, value in places.items() if value is not None})
        dataset = load_dataset(settings, self.seed)
        if dataset.fingerprint != self.run.tags.get("fingerprint"):
            raise UserError(
                f"The images of {dataset.name} are not those that {self.title} learned from: by today's split it could "
                "be judged by images that it knows. Bring them back, or judge it by others with --data FOLDER."
            )
        table = read_text(self.tracking_uri, self.run.run_id, SPLIT_TABLE)
        if table is not None and table != dataset.split_table():
            raise UserError(
                f"Today the images of {dataset.name} are split otherwise than when {self.title} learned from them, by "
                "another version of Pillow or of eyevsai: it could be judged by images that it knows. Judge it where "
                "it was trained, or by others with --data FOLDER."
            )
        return dataset


def find_subject(tracking_uri: str, run_id: str | None, model_uri: str | None) -> Subject:
    """The model of a run, or of a version.

    Raises:
        UserError: there is no such run or version, it has no model, or its folder holds what eyevsai does not write.
    """
    from eyevsai.registry.versions import find_version, version_of_run
    from eyevsai.serving.package import fetch_package
    from eyevsai.tracking.search import find_run, read_json

    version = find_version(tracking_uri, model_uri) if model_uri else None
    found_id = version.run_id if version else str(run_id)
    if version is not None and not found_id:
        raise UserError(f"{version.uri} was registered without a run, so eyevsai knows nothing of its data.")
    run = find_run(tracking_uri, found_id)
    version = version or version_of_run(tracking_uri, found_id)
    uri = version.uri if version else run.model_uri
    if uri is None:
        why = f"it is {run.status}" if run.status != "FINISHED" else f"it is of job {run.tags.get('job', 'unknown')}"
        raise UserError(f"Run {found_id} has no model: {why}. Name a finished training run; `eyevsai ui` shows them.")
    package = fetch_package(uri)
    config = read_json(tracking_uri, found_id, CONFIG)
    if config is None:
        raise UserError(f"Run {found_id} has no {CONFIG}: eyevsai did not train it.")
    return Subject(run, version, package, config, tracking_uri)
