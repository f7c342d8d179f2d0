"""The operations of a spool: each leaves the same behind whether it is carried out once or
twice.
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

from eyevsai.store.run_dir import MODEL_ID, REJECTED, RunDir
from eyevsai.tracking.marks import mark_model

PARAMS_PER_CALL = 100
ERROR_LENGTH = 500  # of what a tag says of a failure
FILES, MODEL_FILES = "files", "model_files"  # where in a run folder they wait

Carrier = Callable[[MlflowClient, RunDir, dict[str, Any]], None]


def log_params(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Logs settings, except those that `mlflow run` logged already as it was given them."""
    there = client.get_run(folder.run_id).data.params
    new = [Param(name, value) for name, value in arguments["values"].items() if name not in there]
    for start in range(0, len(new), PARAMS_PER_CALL):
        client.log_batch(folder.run_id, params=new[start : start + PARAMS_PER_CALL])


def set_tags(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Sets tags of the run."""
    client.log_batch(
        folder.run_id, tags=[RunTag(name, value) for name, value in arguments["values"].items()]
    )


def log_metrics(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Logs one row; a point of the same time, step and value is one point to MLflow."""
    time_ms, step = arguments["time_ms"], arguments["step"]
    client.log_batch(
        folder.run_id,
        [Metric(name, value, time_ms, step) for name, value in arguments["values"].items()],
    )


def log_file(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Uploads a file of the run folder as an artifact."""
    client.log_artifact(
        folder.run_id, str(folder.path / arguments["file"]), arguments["artifact_folder"]
    )


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


def log_model_files(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """Uploads more files into a logged model."""
    client.log_model_artifacts(arguments["model_id"], str(folder.path / arguments["folder"]))


def end_run(client: MlflowClient, folder: RunDir, arguments: dict[str, Any]) -> None:
    """End the run; one whose writes were rejected is never FINISHED."""
    status, rejected = arguments["status"], folder.read(REJECTED)
    if rejected is not None and status == "FINISHED":
        status = "FAILED"
        client.set_tag(
            folder.run_id, "error", f"MLflow rejected what was logged: {rejected}"[:ERROR_LENGTH]
        )
    client.set_terminated(folder.run_id, status, arguments["time_ms"])


CARRIERS: dict[str, Carrier] = {
    "params": log_params,
    "tags": set_tags,
    "metrics": log_metrics,
    "file": log_file,
    "dataset": log_dataset,
    "model": log_model,
    "model_files": log_model_files,
    "end": end_run,
}
