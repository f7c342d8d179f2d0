"""Links to runs in MLflow's UI."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.store.ui_links import comparison_page, make_link, run_page


def link_to_run(tracking_uri: str, run_id: str) -> str:
    """Return the URL of a run's page; empty if the store is unreachable or has no such run."""
    experiments = _find_experiments(tracking_uri, [run_id])
    return make_link(tracking_uri, run_page(experiments[0], run_id)) if experiments else ""


def link_to_comparison(tracking_uri: str, run_ids: Sequence[str]) -> str:
    """Return the URL of the page that compares runs; empty if one of them was deleted."""
    experiments = _find_experiments(tracking_uri, run_ids)
    return make_link(tracking_uri, comparison_page(experiments, run_ids)) if experiments else ""


def _find_experiments(tracking_uri: str, run_ids: Sequence[str]) -> list[str]:
    """Return the experiment of each run; empty if a run is missing, or the store is unreachable."""
    client, experiments = MlflowClient(tracking_uri=tracking_uri), list[str]()
    try:
        for run_id in run_ids:
            info = client.get_run(run_id).info
            if info.lifecycle_stage != "active":
                return []
            experiments.append(str(info.experiment_id))
    except MlflowException:
        return []
    return experiments
