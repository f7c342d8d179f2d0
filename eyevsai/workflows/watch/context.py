"""Context of the actions of a watcher: model, inference log, policy and stored state."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eyevsai.core.errors import JobError, UserError
from eyevsai.core.names import ModelName, to_file_name
from eyevsai.inference_log.images import find_folder
from eyevsai.inference_log.labels import LabelReader
from eyevsai.inference_log.store import LogStore
from eyevsai.registry.entities import Client
from eyevsai.registry.retraining_runs import RetrainingRun
from eyevsai.retraining.record import Retraining
from eyevsai.workflows.job_context import JobContext
from eyevsai.workflows.monitor.measure import LiveVersion
from eyevsai.workflows.trained_model import TrainedModel, find_trained_model
from eyevsai.workflows.watch.freeze import dataset_of
from eyevsai.workflows.watch.frozen_data import FrozenData, open_frozen
from eyevsai.workflows.watch.labelled import LabelledImages, read_labelled
from eyevsai.workflows.watch.settings import WatchPolicy, WatchSettings


@dataclass(frozen=True)
class WatchContext:
    """Model that a call watches, with what its actions need.

    Attributes:
        job: context of the workflow.
        client: client of the store.
        store: inference log.
        settings: settings of the call.
        policy: policy of the retraining.
        run: run with the state.
        live: version in Production, with its drift reference.
    """

    job: JobContext
    client: Client
    store: LogStore
    settings: WatchSettings
    policy: WatchPolicy
    run: RetrainingRun
    live: LiveVersion

    @property
    def model(self) -> str:
        """Name of the registered model."""
        return self.live.model

    @property
    def production(self) -> int:
        """Number of the version in Production."""
        return self.live.number

    @property
    def folder(self) -> Path:
        """Folder of the model's frozen data and labelling requests."""
        return self.settings.folder / to_file_name(self.model)

    def uri(self, version: int | None) -> str:
        """Return the URI of a version."""
        return f"models:/{self.model}/{version}"

    def base(self, record: Retraining) -> TrainedModel:
        """Return the version whose training is repeated: that in Production at the start.

        Raises:
            UserError: its training would register versions under another name.
        """
        number = record.production or self.production
        base = find_trained_model(self.job.tracking_uri, self.uri(number))
        family, variation = str(base.config["model"]), str(base.config["variation"])
        registered = ModelName(dataset_of(base), family, variation).registered
        if registered != self.model:
            raise UserError(
                f"{self.model} cannot be retrained, because its versions come from {registered}. "
                f"Watch that one: eyevsai watch {registered}"
            )
        return base

    def frozen(self, record: Retraining) -> FrozenData:
        """Return the frozen data of a retraining.

        Raises:
            UserError: the folder does not exist, or was changed.
        """
        return open_frozen(self.folder, record.data)

    def labelled(self) -> LabelledImages:
        """Return the labelled images of the model."""
        images = find_folder(self.store, self.settings.images_dir)
        return read_labelled(
            LabelReader(self.store), images, self.model, self.live.reference.classes
        )


def version_of(record: Retraining) -> int:
    """Return the version that was trained; raise JobError if the stored state has none."""
    if record.version is None:
        raise JobError("The state of the retraining has no version: it was changed by hand.")
    return record.version
