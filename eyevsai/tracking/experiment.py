"""The experiment that runs lie in, and what MLflow's UI says of it."""

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
VIEW = f"mlflow.sharedViewState.{VIEW_ID}"  # the tag of a view that the UI lists under Views
PAGE = f"/#/experiments/{{}}/runs?workflowType=machine_learning&viewStateShareKey={VIEW_ID}"

ABOUT_START = "**Image classifiers by eyevsai**"
ABOUT = f"""\
{ABOUT_START}: each row is a run: a training, a study with its trials
under it, or another job.

- **Which is best?** The view *{VIEW_NAME}* (Views, top right; `eyevsai ui` opens it) sorts by
  `valid/best_accuracy`. `test/accuracy` comes with `eyevsai evaluate --run ID`. Trials lie
  under their study: clear the filter to see them as rows.
- **What differs?** Tick runs and press *Compare*; or `eyevsai compare RUN_A RUN_B`, which also
  says whether chance explains it.
- **Only some of them**: filter by ``tags.`eyevsai.job` = "train"``,
  `tags.dataset = "pets"`, `tags.model = "deep_v2"`.
- **One run**: *Overview* has its settings, *Model metrics* its curves, *Artifacts* its
  pictures, tables and data.
- **What is live?** *Model registry*: the version with the alias `production`. Which runs did what
  there, when and why: `eyevsai registry log NAME`.
"""


def find_experiment(client: MlflowClient) -> str:
    """The id of the experiment that MLflow's own variables name, else of Default."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if not name or os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return os.environ.get("MLFLOW_EXPERIMENT_ID") or "0"
    return retry_on_conflict(partial(_find_or_create, client, name))


def describe_experiment(client: MlflowClient, experiment_id: str) -> None:
    """Says of an experiment, once, what is there and how to compare; what a person wrote or emptied
    stays.
    """
    known = client.get_experiment(experiment_id).tags
    told = {NOTE: ABOUT, VIEW: _view(), **known, KIND[0]: KIND[1]}
    for name, value in told.items():
        if known.get(name) != value:
            retry_on_conflict(partial(client.set_experiment_tag, experiment_id, name, value))


def update_description(client: MlflowClient, experiment: Experiment) -> None:
    """Replace the description and the view that an earlier eyevsai wrote; others stay."""
    if experiment.tags.get(NOTE, "").startswith(ABOUT_START):
        for name, value in ((NOTE, ABOUT), (VIEW, _view())):
            retry_on_conflict(
                partial(client.set_experiment_tag, experiment.experiment_id, name, value)
            )


def page_of_runs(tracking_uri: str) -> str:
    """Where the UI of a store shows the runs of its experiment, the best first; it is described if
    it is not yet.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    experiment_id = find_experiment(client)
    describe_experiment(client, experiment_id)
    return PAGE.format(experiment_id)


def _find_or_create(client: MlflowClient, name: str) -> str:
    experiment = client.get_experiment_by_name(name)
    return str(experiment.experiment_id if experiment else client.create_experiment(name))


def _view() -> str:
    """A view in the form in which the UI of MLflow keeps those that people save."""
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
