"""Description, saved view and page of an experiment, as MLflow's UI shows them."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import UserError
from eyevsai.core.retry import retry_on_conflict
from eyevsai.evaluation.metric_names import TEST_ACCURACY, VALID_ACCURACY
from eyevsai.store.paging import list_experiments
from eyevsai.store.tags import JOB, NOTE
from eyevsai.store.ui_links import EXPERIMENTS, runs_page
from eyevsai.tracking.experiment import (
    find_existing_experiment,
    find_experiment,
    is_experiment_selected,
)

log = logging.getLogger("eyevsai")

KIND = ("mlflow.experimentKind", "custom_model_development")  # which pages the UI shows
VIEW_ID, VIEW_NAME = "eyevsai", "Best first"
VIEW = f"mlflow.sharedViewState.{VIEW_ID}"  # the tag of a saved view, listed in the UI under Views
# columns of the saved view after name and time, with their widths in pixels
COLUMNS = {
    "tags.`dataset`": 110,
    "tags.`model`": 90,
    "tags.`variation`": 110,
    f"metrics.`{TEST_ACCURACY}`": 115,
    f"metrics.`{VALID_ACCURACY}`": 150,
}
FIXED_COLUMNS = {"attributes.`Run Name`": 225, "runDateAndNestInfo": 135}  # come first

ABOUT_START = "**Image classifiers by eyevsai**"
ABOUT = f"""\
{ABOUT_START}: each row is a run: a training, a study with its trials
under it, or another job.

- **Which is best?** The view *{VIEW_NAME}* (Views, top right; `eyevsai ui` opens it) sorts
  trainings by `{VALID_ACCURACY}`. `eyevsai evaluate --run ID` adds `{TEST_ACCURACY}`. Clear the
  filter to see studies, evaluations and exports, too.
- **What differs?** Tick runs and press *Compare*; or `eyevsai compare RUN_A RUN_B`, which also
  tests whether the difference is significant.
- **Filter runs**: use ``tags.`eyevsai.job` = "tune"``,
  `tags.model = "deep_v2"`.
- **One run**: *Overview* has its result and settings, *Model metrics* its curves, *Artifacts* its
  plots, tables and data.
- **What is in production?** *Model registry*: the version with the alias `production`. The history
  of its changes, with reasons: `eyevsai registry log NAME`.
"""


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
    """Return the path of the UI page that shows the runs of an experiment, the best first.

    The experiment is the one that MLflow's environment variables select, else that of the last
    training. Without a server, its description and view are written if they are missing. Returns
    the list of experiments if there is no such experiment, if it was deleted, or if a server
    rejects the credentials: a browser can log in.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        experiment_id = _find_shown(client)
        if experiment_id is None:
            return EXPERIMENTS
        if not tracking_uri.startswith("http"):  # a server may not permit it
            describe_experiment(client, experiment_id)
        is_viewed = VIEW in client.get_experiment(experiment_id).tags
    except UserError as error:  # the UI shows the other experiments
        log.warning("%s", error)
        return EXPERIMENTS
    except MlflowException:
        if not tracking_uri.startswith("http"):
            raise
        return EXPERIMENTS
    return runs_page(experiment_id, VIEW_ID if is_viewed else None)


def _find_shown(client: MlflowClient) -> str | None:
    """Return the id of the experiment to show; without a server, a missing one is created."""
    if not is_experiment_selected():
        return _find_latest(client)
    is_server = client.tracking_uri.startswith("http")
    return find_existing_experiment(client) if is_server else find_experiment(client)


def _find_latest(client: MlflowClient) -> str | None:
    """Return the id of the experiment of the last training; None if there is no training."""
    experiments = [each.experiment_id for each in list_experiments(client)]
    runs = client.search_runs(
        experiments, f"tags.`{JOB}` = 'train'", max_results=1, order_by=["start_time DESC"]
    )
    return str(runs[0].info.experiment_id) if runs else None


def _render_view() -> str:
    """Return the saved view as JSON, in the format of MLflow's UI."""
    widths = FIXED_COLUMNS | COLUMNS
    state: dict[str, Any] = {
        "orderByKey": f"metrics.`{VALID_ACCURACY}`",
        "orderByAsc": False,
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(widths),
        "columnWidths": widths,
        "searchFilter": f'tags.`{JOB}` = "train"',
    }
    return json.dumps(
        {"name": VIEW_NAME, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    )
