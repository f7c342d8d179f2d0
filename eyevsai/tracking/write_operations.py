"""Handlers of the write queue: one per kind of operation.

Each takes the client of the store, the run directory, and the arguments of the operation as JSON
values. Handlers are idempotent, because an operation may be applied twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)

from eyevsai.core.errors import UserError
from eyevsai.core.marked_text import replace_part
from eyevsai.core.names import ModelName
from eyevsai.registry.descriptions import write_descriptions
from eyevsai.registry.entities import tag_if_exists
from eyevsai.registry.registration import register
from eyevsai.store.batches import log_batches
from eyevsai.store.run_dir import MODEL_ID, REJECTED, VERSION_URI, RunDir
from eyevsai.store.tags import NOTE
from eyevsai.tracking.owner_marks import mark_model
from eyevsai.tracking.write_queue import rejection_error

ERROR_LENGTH = 500  # maximum characters of the tag `error`
FILES, MODEL_FILES = "files", "model_files"  # folders for pending uploads in a run directory

Handler = Callable[[MlflowClient, RunDir, dict[str, Any]], None]
HANDLERS: dict[str, Handler] = {}  # by the kind of the operation


def handler(kind: str) -> Callable[[Handler], Handler]:
    """Return a decorator that registers a handler for operations of a kind."""

    def register_handler(function: Handler) -> Handler:
        HANDLERS[kind] = function
        return function

    return register_handler


def apply_operation(
    client: MlflowClient, folder: RunDir, kind: str, arguments: dict[str, Any]
) -> None:
    """Apply one operation of the write queue of a run.

    Args:
        client: client of the store.
        folder: run directory.
        kind: kind of the operation, a key of `HANDLERS`.
        arguments: arguments of the operation, as JSON values.
    """
    HANDLERS[kind](client, folder, arguments)


@handler("params")
def log_params(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Log parameters, except those that the run has already, for example from `mlflow run`."""
    logged = client.get_run(folder.run_id).data.params
    new = [Param(name, value) for name, value in arguments["values"].items() if name not in logged]
    log_batches(client, folder.run_id, params=new)


@handler("tags")
def set_tags(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Set tags of the run."""
    client.log_batch(
        folder.run_id, tags=[RunTag(name, value) for name, value in arguments["values"].items()]
    )


@handler("result")
def set_result(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Update the part of eyevsai in the description of the run."""
    before = client.get_run(folder.run_id).data.tags.get(NOTE, "")
    after = replace_part(before, arguments["result"])
    if after != before:
        client.set_tag(folder.run_id, NOTE, after)


@handler("metrics")
def log_metrics(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Log the metrics of steps; MLflow ignores a repeated point (same time, step and value)."""
    points = [
        Metric(name, value, each["time_ms"], each["step"])
        for each in arguments["steps"]
        for name, value in each["values"].items()
    ]
    log_batches(client, folder.run_id, metrics=points)


@handler("file")
def log_file(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Upload a file of the run directory as an artifact."""
    client.log_artifact(
        folder.run_id, str(folder.path / arguments["file"]), arguments["artifact_folder"]
    )


@handler("dataset")
def log_dataset(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Log the training data as an MLflow dataset input."""
    entity = Dataset(
        name=arguments["name"],
        digest=arguments["digest"][:36],
        source_type="local",
        source=json.dumps({"uri": ", ".join(arguments["folders"])}),
        profile=json.dumps(arguments["profile"]),
    )
    client.log_inputs(
        folder.run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])]
    )


@handler("model")
def log_model(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Upload a model directory as a logged model, and store its id in the run directory.

    Does nothing if the run directory has an id. The model is FAILED if the upload fails.
    """
    if folder.read(MODEL_ID) is not None:
        return
    model = client.create_logged_model(
        arguments["experiment_id"],
        arguments["name"],
        source_run_id=folder.run_id,
        params=arguments["params"],
    )
    try:
        mark_model(client, model)
        client.log_model_artifacts(model.model_id, str(folder.path / arguments["folder"]))
    except BaseException:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(folder.run_id, [LoggedModelOutput(model.model_id, step=0)])
    folder.write(MODEL_ID, model.model_id)


@handler("model_files")
def log_model_files(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Upload files to a logged model."""
    client.log_model_artifacts(arguments["model_id"], str(folder.path / arguments["folder"]))


@handler("end")
def end_run(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """End the run; with a rejected write it is FAILED instead of FINISHED, with a tag `error`."""
    status, rejected = arguments["status"], folder.read(REJECTED)
    if rejected is not None and status == "FINISHED":
        status = "FAILED"
        client.set_tag(folder.run_id, "error", str(rejection_error(rejected))[:ERROR_LENGTH])
    client.set_terminated(folder.run_id, status, arguments["time_ms"])


@handler("version")
def register_version(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Register the logged model of a run, and store the URI of its version in the run directory.

    Raises:
        UserError: the run has no logged model, because its upload was rejected.
    """
    name, model_id = ModelName(**arguments["name"]), folder.read(MODEL_ID)
    if model_id is None:
        raise UserError(
            f"the model of run {folder.run_id} was not stored, so no version of {name} is "
            "registered"
        )
    uri = register(
        client.tracking_uri,
        name,
        model_id,
        folder.run_id,
        arguments["tags"],
        classes=arguments.get("classes"),
        class_change=bool(arguments.get("class_change")),
    )
    folder.write(VERSION_URI, uri)


@handler("version_tags")
def tag_version(client: MlflowClient, _: RunDir, arguments: dict[str, Any]) -> None:
    """Set tags of a model version, if it still exists, and update its description."""
    name, number = arguments["name"], int(arguments["number"])
    tag_if_exists(client, name, number, arguments["tags"])
    write_descriptions(client, name, [number])
