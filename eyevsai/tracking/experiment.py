"""The experiment of new runs: by default one for each dataset."""

from __future__ import annotations

import logging
import os
from functools import partial

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import is_local_uri

from eyevsai.core.errors import UserError
from eyevsai.core.names import to_file_name
from eyevsai.core.retry import retry_on_conflict
from eyevsai.core.shell import quote
from eyevsai.store.backend import MISSING_OR_INVALID, raising_on_denial
from eyevsai.store.deleted_runs import deleted_experiment_error
from eyevsai.store.uris import EXPERIMENT_ID, EXPERIMENT_NAME

log = logging.getLogger("eyevsai")

DEFAULT_ID = "0"  # of the experiment Default
# which runs use an experiment that no variable selects, as the end of a sentence
DATASET_USERS = "new runs of this dataset use by default"
DEFAULT_USERS = "runs of several datasets, and those of `mlflow run`, use by default"


def find_experiment(client: MlflowClient, dataset: str | None = None) -> str:
    """Return the id of the experiment of new runs.

    MLflow's environment variables select it. Without them, it is the one that is named after the
    dataset, or Default for runs without a dataset. An experiment that is selected by its name or by
    a dataset is created if it does not exist.

    Args:
        client: client of the store.
        dataset: name of the dataset of the run; None for a run of several datasets, or of none.

    Raises:
        UserError: the experiment was deleted, or there is none of this id.
    """
    experiment_id = find_existing_experiment(client, dataset)
    if experiment_id is None:
        name = os.environ.get(EXPERIMENT_NAME) or str(dataset)
        return retry_on_conflict(partial(_find_or_create, client, name))
    return experiment_id


def is_experiment_selected() -> bool:
    """Return True if MLflow's environment variables select the experiment of new runs."""
    return bool(os.environ.get(EXPERIMENT_ID) or os.environ.get(EXPERIMENT_NAME))


def check_experiment(tracking_uri: str, dataset: str | None = None) -> None:
    """Raise UserError if the experiment of new runs was deleted, or if there is none of its id.

    The experiment is the one that `find_experiment` returns for the dataset.
    """
    with raising_on_denial(tracking_uri):
        find_existing_experiment(MlflowClient(tracking_uri=tracking_uri), dataset)


def check_given_experiment(tracking_uri: str, run_id: str) -> None:
    """Raise UserError if `--experiment` names another experiment than that of a given run.

    `mlflow run` creates its run in the experiment whose id it passes on; `--experiment` replaces
    that id by a name.
    """
    if experiment := _find_other_experiment(MlflowClient(tracking_uri=tracking_uri), run_id):
        name = os.environ[EXPERIMENT_NAME]
        raise UserError(
            f"--experiment {name} contradicts the run {run_id}, which `mlflow run` created in the "
            f"experiment {experiment}. Use: mlflow run --experiment-name {quote(name)}"
        )


def warn_if_elsewhere(client: MlflowClient, run_id: str) -> None:
    """Log a warning if a resumed run is in another experiment than the one that is selected."""
    if experiment := _find_other_experiment(client, run_id):
        log.warning(
            "Run %s stays in the experiment %s: a resumed run is not moved to %s.",
            run_id,
            experiment,
            os.environ[EXPERIMENT_NAME],
        )


def _find_other_experiment(client: MlflowClient, run_id: str) -> str | None:
    """Return the experiment of a run if another one is selected by name, else None.

    Returns None for a run that does not exist, which other checks report.
    """
    name = os.environ.get(EXPERIMENT_NAME)
    if not name or EXPERIMENT_ID in os.environ:
        return None
    try:
        experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
    except MlflowException as error:
        if error.error_code not in MISSING_OR_INVALID:
            raise
        return None
    return None if experiment.name == name else str(experiment.name)


def find_existing_experiment(client: MlflowClient, dataset: str | None = None) -> str | None:
    """Return the id of the experiment of new runs; None if the first run creates it.

    Raises:
        UserError: the experiment was deleted, or there is none of this id.
    """
    name, experiment_id = os.environ.get(EXPERIMENT_NAME), os.environ.get(EXPERIMENT_ID)
    if not experiment_id and (name or dataset):
        experiment = client.get_experiment_by_name(name or str(dataset))
        users = f"--experiment or {EXPERIMENT_NAME} selects" if name else DATASET_USERS
    else:
        experiment = _get_experiment(client, experiment_id or DEFAULT_ID)
        users = f"{EXPERIMENT_ID}={experiment_id} selects" if experiment_id else DEFAULT_USERS
        if experiment is None:
            raise _missing_experiment(experiment_id)
    if experiment is None:
        return None
    if experiment.lifecycle_stage != "active":
        raise deleted_experiment_error(experiment, users)
    return str(experiment.experiment_id)


def _get_experiment(client: MlflowClient, experiment_id: str) -> Experiment | None:
    """Return the experiment of an id, also a deleted one; None if there is none."""
    try:
        return client.get_experiment(experiment_id)
    except MlflowException as error:
        if error.error_code not in MISSING_OR_INVALID:
            raise
        return None


def _missing_experiment(experiment_id: str | None) -> UserError:
    """Return the error for an experiment that does not exist; None is the default one."""
    if experiment_id is None:
        return UserError(
            f"The store has no experiment {DEFAULT_ID}, which {DEFAULT_USERS}. Select another one: "
            f"set {EXPERIMENT_NAME} to its name."
        )
    return UserError(
        f"There is no experiment {experiment_id}, which {EXPERIMENT_ID}={experiment_id} selects. "
        f"Set {EXPERIMENT_ID} to an id that `mlflow experiments search` lists, or unset it."
    )


def _find_or_create(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    return str(client.create_experiment(name, _choose_location(client, name)))


def _choose_location(client: MlflowClient, name: str) -> str | None:
    """Return the artifact location of a new experiment; None if the store chooses it.

    Without a server, MLflow would choose a folder below the current one. This is a folder beside
    that of the experiment Default, so that a project keeps all its artifacts in one place.
    """
    default = _get_experiment(client, DEFAULT_ID)
    if client.tracking_uri.startswith("http") or default is None:
        return None
    root, _, folder = default.artifact_location.rpartition("/")
    is_usual = is_local_uri(default.artifact_location) and folder == DEFAULT_ID
    return f"{root}/{to_file_name(name)}" if is_usual else None
