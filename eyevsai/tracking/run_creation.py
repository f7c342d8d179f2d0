"""Creation of MLflow runs, and use of the run that `mlflow run` created."""

from __future__ import annotations

import getpass
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient

from eyevsai.store.backend import raising_on_denial
from eyevsai.store.given_run import check_given_run, name_given_run, tag_given_run
from eyevsai.tracking.experiment import describe_experiment, find_experiment


def find_or_create_run(
    client: MlflowClient,
    name: str,
    tags: Mapping[str, Any],
    given_run_id: str | None,
    resumed_run_id: str | None,
) -> str:
    """Return the id of the resumed run, else of the given run, else of a new one.

    The parameters are those of `run_lifecycle.start_run`. The tags of a resumed run are not set.

    Raises:
        UserError: the given run is not of this command, or the login may not write to the server.
    """
    if given_run_id is not None and given_run_id != resumed_run_id:
        check_given_run(client, given_run_id)
    if resumed_run_id:
        return resumed_run_id
    with raising_on_denial(client.tracking_uri):
        if given_run_id:
            return _use_given_run(client, given_run_id, name, tags)
        return create_run(client, name, tags)


def create_run(
    client: MlflowClient, name: str, tags: Mapping[str, Any], started_ms: int | None = None
) -> str:
    """Create a run in the experiment that MLflow resolves, and return its id.

    Args:
        client: client of the store.
        name: name of the run.
        tags: tags of the run.
        started_ms: start time in milliseconds since 1970; now if None.
    """
    experiment_id = find_experiment(client)
    describe_experiment(client, experiment_id)
    origin = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": "eyevsai",
        "mlflow.source.type": "LOCAL",
    }
    return str(client.create_run(experiment_id, started_ms, {**origin, **tags}, name).info.run_id)


def _use_given_run(client: MlflowClient, run_id: str, name: str, tags: Mapping[str, Any]) -> str:
    """Set the tags of the given run, and its name if MLflow generated the current one."""
    describe_experiment(client, client.get_run(run_id).info.experiment_id)
    tag_given_run(client, run_id, tags)
    name_given_run(client, run_id, name)
    return run_id
