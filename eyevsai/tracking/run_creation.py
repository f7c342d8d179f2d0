"""Creation of MLflow runs, their names, and use of the run that `mlflow run` created."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

from eyevsai.store.backend import raising_on_denial
from eyevsai.store.given_run import check_given_run, name_given_run, tag_given_run
from eyevsai.tracking.experiment import find_experiment
from eyevsai.tracking.experiment_view import describe_experiment

DATASET = "dataset"  # tag of a run, which determines its experiment
LATEST = 50  # runs whose names are read to choose the next number


@dataclass(frozen=True)
class NewRun:
    """Name, tags and experiment of a run to create.

    Attributes:
        name: name of the run.
        tags: tags of the run.
        is_numbered: append the next free number in its experiment to the name.
        experiment_id: experiment of the run; None for the one that MLflow's environment variables
            or the dataset in the tags select.
    """

    name: str
    tags: Mapping[str, Any]
    is_numbered: bool = False
    experiment_id: str | None = None


def find_or_create_run(
    client: MlflowClient, new: NewRun, given_run_id: str | None, resumed_run_id: str | None
) -> str:
    """Return the id of the resumed run, else of the given run, else of a new one.

    Args:
        client: client of the store.
        new: the run to create. Its name and tags are those of a given run, too; those of a resumed
            run are not set.
        given_run_id: run that `mlflow run` created for this command; None without one.
        resumed_run_id: earlier run to resume; None for none.

    Raises:
        UserError: the given run is not of this command, the experiment was deleted, or the login
            may not write to the server.
    """
    if given_run_id is not None and given_run_id != resumed_run_id:
        check_given_run(client, given_run_id)
    if resumed_run_id:
        return resumed_run_id
    with raising_on_denial(client.tracking_uri):
        if given_run_id:
            return _use_given_run(client, given_run_id, new)
        return create_run(client, new)


def create_run(client: MlflowClient, new: NewRun, started_ms: int | None = None) -> str:
    """Create a run and return its id.

    Args:
        client: client of the store.
        new: the run to create.
        started_ms: start time in milliseconds since 1970; now if None.
    """
    experiment_id = new.experiment_id or find_experiment(client, new.tags.get(DATASET))
    describe_experiment(client, experiment_id)
    origin = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": "eyevsai",
        "mlflow.source.type": "LOCAL",
    }
    name = _choose_name(client, new, experiment_id)
    run = client.create_run(experiment_id, started_ms, {**origin, **new.tags}, name)
    return str(run.info.run_id)


def _use_given_run(client: MlflowClient, run_id: str, new: NewRun) -> str:
    """Set the tags of the given run, and its name if MLflow generated the current one."""
    experiment_id = client.get_run(run_id).info.experiment_id
    describe_experiment(client, experiment_id)
    tag_given_run(client, run_id, new.tags)
    name_given_run(client, run_id, _choose_name(client, new, experiment_id))
    return run_id


def _choose_name(client: MlflowClient, new: NewRun, experiment_id: str) -> str:
    """Return the name of a run, with the next free number in its experiment if it is numbered.

    Processes that start at the same time can choose the same number, which is rare and harmless:
    runs are identified by their ids.
    """
    if not new.is_numbered:
        return new.name
    # MLflow's filters have no escape sequences; `_` matches any character
    pattern = re.sub(r"[^\w .-]", "_", new.name)
    runs = client.search_runs(
        [experiment_id],
        f"attributes.run_name LIKE '{pattern}-%'",
        ViewType.ALL,
        LATEST,
        ["attributes.start_time DESC"],
    )
    return number_name(new.name, [run.info.run_name or "" for run in runs])


def number_name(name: str, names: list[str]) -> str:
    """Return a name with the number after the highest one that names of this form have."""
    numbered = re.compile(rf"{re.escape(name)}-([0-9]{{1,9}})")
    numbers = [int(match[1]) for each in names if (match := numbered.fullmatch(each))]
    return f"{name}-{max(numbers, default=0) + 1}"
