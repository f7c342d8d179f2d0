"""The experiment of new runs, and its description and saved view in MLflow's UI."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment

from eyevsai.core.retry import retry_on_conflict

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
    """
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if not name or os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return os.environ.get("MLFLOW_EXPERIMENT_ID") or "0"
    return retry_on_conflict(partial(_find_or_create, client, name))


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

    The description and the view are written if they are missing.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    experiment_id = find_experiment(client)
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
