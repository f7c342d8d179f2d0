"""Errors for runs and experiments that were deleted in MLflow, with the command that restores them.

MLflow deletes and restores the runs of an experiment with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eyevsai.core.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, RunInfo


def deleted_experiment_error(experiment: Experiment, users: str) -> UserError:
    """Return the error for a deleted experiment that new runs would be logged to.

    `users` is what selects it, or which runs use it by default, as the end of a sentence.
    """
    other = "Select another one with --experiment or MLFLOW_EXPERIMENT_NAME"
    if users.startswith("MLFLOW_EXPERIMENT_ID"):
        other = f"Change {users.partition('=')[0]}"
    number = experiment.experiment_id
    return UserError(
        f"The experiment {experiment.name} (id {number}), which {users}, was deleted. {other}, or "
        f"restore it with its runs: mlflow experiments restore -x {number}"
    )


def describe_deletion(client: MlflowClient, run: RunInfo) -> str:
    """Return the end of a sentence about a deleted run, and the command that restores it."""
    experiment = client.get_experiment(run.experiment_id)
    if experiment.lifecycle_stage == "active":
        return f"was deleted. Restore it first: mlflow runs restore --run-id {run.run_id}"
    return (
        f"was deleted with its experiment {experiment.name} (id {experiment.experiment_id}). "
        f"Restore them first: mlflow experiments restore -x {experiment.experiment_id}"
    )
