"""Handlers of the write queue: one per kind of operation.

A handler leaves the same behind whether it is applied once or twice.
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
from eyevsai.core.names import ModelName
from eyevsai.registry.entities import tag_if_exists
from eyevsai.registry.registration import register
from eyevsai.store.run_dir import MODEL_ID, REJECTED, VERSION_URI, RunDir
from eyevsai.tracking.owner_marks import mark_model

PARAMS_PER_CALL = 100
ERROR_LENGTH = 500  # of what a tag says of a failure
FILES, MODEL_FILES = "files", "model_files"  # where in a run folder they wait

Handler = Callable[[MlflowClient, RunDir, dict[str, Any]], None]
HANDLERS: dict[str, Handler] = {}  # by the kind of the operation


def handler(kind: str) -> Callable[[Handler], Handler]:
    """Register a function as the handler of the operations of one kind."""

    def register_handler(function: Handler) -> Handler:
        HANDLERS[kind] = function
        return function

    return register_handler


def apply_operation(
    client: MlflowClient, folder: RunDir, kind: str, arguments: dict[str, Any]
) -> None:
    """Apply one operation of the write queue of a run."""
    HANDLERS[kind](client, folder, arguments)


@handler("params")
def log_params(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Logs settings, except those that `mlflow run` logged already as it was given them."""
    there = client.get_run(folder.run_id).data.params
    new = [Param(name, value) for name, value in arguments["values"].items() if name not in there]
    for start in range(0, len(new), PARAMS_PER_CALL):
        client.log_batch(folder.run_id, params=new[start : start + PARAMS_PER_CALL])


@handler("tags")
def set_tags(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Sets tags of the run."""
    client.log_batch(
        folder.run_id, tags=[RunTag(name, value) for name, value in arguments["values"].items()]
    )


@handler("metrics")
def log_metrics(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Logs one row; a point of the same time, step and value is one point to MLflow."""
    time_ms, step = arguments["time_ms"], arguments["step"]
    client.log_batch(
        folder.run_id,
        [Metric(name, value, time_ms, step) for name, value in arguments["values"].items()],
    )


@handler("file")
def log_file(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Uploads a file of the run folder as an artifact."""
    client.log_artifact(
        folder.run_id, str(folder.path / arguments["file"]), arguments["artifact_folder"]
    )


@handler("dataset")
def log_dataset(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Logs what the run learned from as an MLflow dataset input."""
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
    """Uploads the model folder as a logged model of the run and keeps its id."""
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
    """Uploads more files into a logged model."""
    client.log_model_artifacts(arguments["model_id"], str(folder.path / arguments["folder"]))


@handler("end")
def end_run(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """End the run; one whose writes were rejected is never FINISHED."""
    status, rejected = arguments["status"], folder.read(REJECTED)
    if rejected is not None and status == "FINISHED":
        status = "FAILED"
        client.set_tag(
            folder.run_id, "error", f"MLflow rejected what was logged: {rejected}"[:ERROR_LENGTH]
        )
    client.set_terminated(folder.run_id, status, arguments["time_ms"])


@handler("version")
def register_version(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Register the logged model of a run and keep the URI of its version.

    Raises:
        UserError: the model was not stored: a version without files would not load.
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
    """Set tags of a version, if it still exists."""
    tag_if_exists(client, arguments["name"], int(arguments["number"]), arguments["tags"])
