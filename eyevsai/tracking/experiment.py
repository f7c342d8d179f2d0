"""The experiment of new runs, and its description and saved view in MLflow's UI."""

from __future__ import annotations

import json
import logging
import os
from functools import partial
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import UserError
from eyevsai.core.retry import retry_on_conflict
from eyevsai.core.shell import quote
from eyevsai.store.backend import MISSING_OR_INVALID, raising_on_denial
from eyevsai.store.deleted_runs import deleted_experiment_error
from eyevsai.store.uris import EXPERIMENT_ID, EXPERIMENT_NAME

log = logging.getLogger("eyevsai")

DEFAULT_ID = "0"
NOTE = "mlflow.note.content"  # the tag that the UI shows above an experiment's runs
KIND = ("mlflow.experimentKind", "custom_model_development")  # which pages the UI shows
VIEW_ID, VIEW_NAME = "eyevsai", "Best first"
VIEW = f"mlflow.sharedViewState.{VIEW_ID}"  # the tag of a saved view, listed in the UI under Views
PAGE = f"/#/experiments/{{}}/runs?workflowType=machine_learning&viewStateShareKey={VIEW_ID}"

ABOUT_START = "**Image classifiers by eyevsai**"
ABOUT = f"""\
{ABOUT_START}: each row is a run: a training, a study with its trials
under it, or another job.

- **Which is best?** The view *{VIEW_NAME}* (Views, top right; `eyevsai ui` opens it) sorts by
  `valid/best_accuracy`. `eyevsai evaluate --run ID` adds `test/accuracy`. Trials are nested
  under their study: clear the filter to show them as rows.
- **What differs?** Tick runs and press *Compare*; or `eyevsai compare RUN_A RUN_B`, which also
  tests whether the difference is significant.
- **Filter runs**: use ``tags.`eyevsai.job` = "train"``,
  `tags.dataset = "pets"`, `tags.model = "deep_v2"`.
- **One run**: *Overview* has its settings, *Model metrics* its curves, *Artifacts* its
  plots, tables and data.
- **What is in production?** *Model registry*: the version with the alias `production`. The history
  of its changes, with reasons: `eyevsai registry log NAME`.
"""


def find_experiment(client: MlflowClient) -> str:
    """Return the id of the experiment that MLflow's environment variables select, else of Default.

    An experiment that MLFLOW_EXPERIMENT_NAME selects is created if it does not exist.

    Raises:
        UserError: the experiment was deleted, or there is none of this id.
    """
    experiment_id = _select_experiment(client)
    if experiment_id is None:
        return retry_on_conflict(partial(_find_or_create, client, os.environ[EXPERIMENT_NAME]))
    return experiment_id


def check_experiment(tracking_uri: str) -> None:
    """Raise UserError if the experiment of new runs was deleted, or if there is none of its id."""
    with raising_on_denial(tracking_uri):
        _select_experiment(MlflowClient(tracking_uri=tracking_uri))


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


def _select_experiment(client: MlflowClient) -> str | None:
    """Return the id of the experiment of new runs; None if the first run creates it.

    Raises:
        UserError: the experiment was deleted, or there is none of this id.
    """
    name, experiment_id = os.environ.get(EXPERIMENT_NAME), os.environ.get(EXPERIMENT_ID)
    if name and not experiment_id:
        experiment = client.get_experiment_by_name(name)
        selection = f"--experiment or {EXPERIMENT_NAME}"
    else:
        experiment = _get_experiment(client, experiment_id or DEFAULT_ID)
        selection = f"{EXPERIMENT_ID}={experiment_id}" if experiment_id else ""
        if experiment is None:
            raise _missing_experiment(experiment_id)
    if experiment is None:
        return None
    if experiment.lifecycle_stage != "active":
        raise deleted_experiment_error(experiment, selection)
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
            f"The store has no experiment {DEFAULT_ID}, which new runs use by default. Select "
            f"another one: set {EXPERIMENT_NAME} to its name."
        )
    return UserError(
        f"There is no experiment {experiment_id}, which {EXPERIMENT_ID}={experiment_id} selects. "
        f"Set {EXPERIMENT_ID} to an id that `mlflow experiments search` lists, or unset it."
    )


def describe_experiment(client: MlflowClient, experiment_id: str) -> None:
    """Set the description, the view and the kind of an experiment as shown in MLflow's UI.

    A description or view that exists, even an empty one, is not changed.
    """
    current = client.get_experiment(experiment_id).tags
    tags = {NOTE: ABOUT, VIEW: _render_view(), **current, KIND[0]: KIND[1]}
    for name, value in tags.items():
        if current.get(name) != value:
            retry_on_conflict(partial(client.set_experiment_tag, experiment_id, name, value))


def update_description(client: MlflowClient, experiment: Experiment) -> None:
    """Update the description and the view of an experiment that an earlier eyevsai described.

    Does nothing if a user has replaced the description.
    """
    if experiment.tags.get(NOTE, "").startswith(ABOUT_START):
        for name, value in ((NOTE, ABOUT), (VIEW, _render_view())):
            retry_on_conflict(
                partial(client.set_experiment_tag, experiment.experiment_id, name, value)
            )


def page_of_runs(tracking_uri: str) -> str:
    """Return the path of the UI page that shows the runs of the experiment, the best first.

    The description and the view are written if they are missing. Returns "", the start page, if the
    experiment was deleted.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        experiment_id = find_experiment(client)
    except UserError as error:  # the UI shows the other experiments
        log.warning("%s", error)
        return ""
    describe_experiment(client, experiment_id)
    return PAGE.format(experiment_id)


def _find_or_create(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))


def _render_view() -> str:
    """Return the saved view as JSON, in the format of MLflow's UI."""
    columns = [
        "metrics.`valid/best_accuracy`",
        "metrics.`test/accuracy`",
        "tags.`dataset`",
        "tags.`model`",
        "tags.`variation`",
        "attributes.`Models`",
    ]
    state: dict[str, Any] = {
        "orderByKey": columns[0],
        "orderByAsc": False,
        "selectedColumns": columns,
        "searchFilter": 'tags.`eyevsai.job` != "trial"',
    }
    return json.dumps(
        {"name": VIEW_NAME, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    )
