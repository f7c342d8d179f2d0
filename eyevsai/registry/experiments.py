"""Experiments of the registry's own runs, such as the audit log."""

from __future__ import annotations

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException


def ensure_experiment(client: MlflowClient, name: str, about: str) -> str:
    """Return the id of an experiment; create it, or restore it if it was deleted in MLflow's UI.

    Args:
        client: client of the store.
        name: name of the experiment.
        about: its description, if it is created.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        if experiment.lifecycle_stage != "active":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)
    try:
        return str(client.create_experiment(name, tags={"mlflow.note.content": about}))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # created concurrently
            raise
        return ensure_experiment(client, name, about)
