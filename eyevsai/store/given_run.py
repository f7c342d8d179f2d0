"""Check of the run that `mlflow run` creates for a command and passes in MLFLOW_RUN_ID."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Setting
from eyevsai.store.backend import MISSING
from eyevsai.store.deleted_runs import describe_deletion
from eyevsai.store.tags import JOB, SOURCE_RUN_ID, STUB

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("eyevsai")

REPLACED = "replaced"  # job of a run that `mlflow run` created, and that another run replaced
# beginnings of the tags of a project's run
ORIGIN = ("mlflow.project.", "mlflow.source.", "mlflow.gitRepoURL", "mlflow.user")
ENTRY_POINT = "mlflow.project.entryPoint"  # the tag of a run that `mlflow run` created
RUN_ID_VARIABLE = "MLFLOW_RUN_ID"
GENERATED_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")  # MLflow's names, such as bold-fish-123


def check_given_run(client: MlflowClient, run_id: str) -> None:
    """Raise UserError unless a run was created by `mlflow run` for this command and is empty.

    The content of any other run must not be overwritten.

    Raises:
        UserError: the run does not exist, was deleted or has ended, belongs to another command, was
            not created by `mlflow run`, or has metrics or a registered model.
    """
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        raise _rejection(run_id, "does not exist in this store") from error
    if run.info.lifecycle_stage != "active":
        raise _rejection(run_id, describe_deletion(client, run.info).rstrip("."))
    if run.info.status != "RUNNING":
        raise _rejection(run_id, f"is {run.info.status}")
    if job := run.data.tags.get(JOB):
        raise _rejection(run_id, f"belongs to another command ({job})")
    if (
        ENTRY_POINT not in run.data.tags
        or run.data.metrics
        or client.search_model_versions(f"run_id = '{run_id}'")
    ):
        raise _rejection(run_id, "was not created by `mlflow run` for this command")


def name_given_run(client: MlflowClient, run_id: str, name: str) -> None:
    """Set the name of the given run, unless a user chose the current one."""
    if GENERATED_NAME.fullmatch(client.get_run(run_id).info.run_name or ""):
        client.update_run(run_id, name=name)


def tag_given_run(client: MlflowClient, run_id: str, tags: Mapping[str, Any]) -> None:
    """Set tags of the given run in one request; values are converted to text."""
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])


def has_logged_defaults(client: MlflowClient, run_id: str, changed: Collection[Setting]) -> bool:
    """Return True if `mlflow run` logged the default of a parameter that has another value.

    Args:
        client: client of the store.
        run_id: run that `mlflow run` created.
        changed: settings whose value differs from the default.

    Raises:
        UserError: the run is not of this command.
    """
    if not changed:
        return False
    check_given_run(client, run_id)
    logged = client.get_run(run_id).data.params
    return any(each.name in logged and each.is_default(logged[each.name]) for each in changed)


def copy_origin(client: MlflowClient, run_id: str) -> dict[str, str]:
    """Return the tags of a given run that describe its project, for the run that replaces it."""
    tags = client.get_run(run_id).data.tags
    return {name: tags[name] for name in tags if name.startswith(ORIGIN)}


def mark_replaced(
    client: MlflowClient, run_id: str, replacement: str, owner: Mapping[str, Any]
) -> None:
    """Mark a given run as empty, so that a later command deletes it.

    Args:
        client: client of the store.
        run_id: the given run, which `mlflow run` itself ends.
        replacement: id of the run that replaces it.
        owner: tags of this process.
    """
    tags = {JOB: REPLACED, STUB: "true", SOURCE_RUN_ID: replacement, **owner}
    tag_given_run(client, run_id, tags)
    name_given_run(client, run_id, f"replaced by {replacement}")
    log.info("Run %s replaces run %s, whose parameters are defaults.", replacement, run_id)


def _rejection(run_id: str, reason: str) -> UserError:
    return UserError(
        f"{RUN_ID_VARIABLE} is set to run {run_id}, which {reason}. Nothing was logged. To create "
        f"a new run, unset {RUN_ID_VARIABLE} in the environment."
    )
