"""Links to pages of MLflow's UI, in its view for model training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import quote

from eyevsai.store.uris import mask_password

HOST, PORT = "127.0.0.1", 5000  # defaults of `eyevsai ui`
# Selects the view for model training. MLflow shows the one for agents to a new browser.
VIEW = "workflowType=machine_learning"
EXPERIMENTS = f"/#/experiments?{VIEW}"  # path of the list of experiments


def runs_page(experiment_id: str, saved_view: str | None = None) -> str:
    """Return the path of the table of an experiment's runs.

    Args:
        experiment_id: id of the experiment.
        saved_view: id of a saved view; MLflow reports an error if the experiment does not have it.
    """
    view = f"&viewStateShareKey={saved_view}" if saved_view else ""
    return f"/#/experiments/{experiment_id}/runs?{VIEW}{view}"


def run_page(experiment_id: str, run_id: str) -> str:
    """Return the path of the page of a run."""
    return f"/#/experiments/{experiment_id}/runs/{run_id}?{VIEW}"


def comparison_page(experiment_ids: Iterable[str], run_ids: Iterable[str]) -> str:
    """Return the path of the page that compares runs, which are in these experiments."""
    runs, experiments = _to_list(run_ids), _to_list(experiment_ids)
    return f"/#/compare-runs?runs={runs}&experiments={experiments}&{VIEW}"


def model_page(name: str) -> str:
    """Return the path of the page of a registered model."""
    return f"/#/models/{quote(name, safe='')}?{VIEW}"


def version_page(name: str, number: int | str) -> str:
    """Return the path of the page of a version of a registered model."""
    return f"/#/models/{quote(name, safe='')}/versions/{number}?{VIEW}"


def make_link(uri: str, page: str) -> str:
    """Return the URL of a page, without passwords.

    For a store that is not a server, it has the default address of `eyevsai ui`, and is valid while
    that runs.

    Args:
        uri: tracking URI of the store.
        page: path of the page.
    """
    address = mask_password(uri).rstrip("/") if uri.startswith("http") else f"http://{HOST}:{PORT}"
    return address + page


def _to_list(ids: Iterable[str]) -> str:
    """Return a JSON list without duplicates, quoted for a URL."""
    return quote(json.dumps(list(dict.fromkeys(ids)), separators=(",", ":")), safe=",")
