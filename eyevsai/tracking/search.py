"""Finding runs and what they logged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException


def find_study(tracking_uri: str, tags: Mapping[str, str], wanted: str | None) -> str | None:
    """The run of the newest finished study with these tags; with `wanted`, the one of that name or run id."""
    client = MlflowClient(tracking_uri=tracking_uri)
    conditions = {"job": "tune", **tags}
    if wanted is not None:
        conditions["study"] = wanted
        try:
            run = client.get_run(wanted)
        except MlflowException:
            pass
        else:
            same = all(run.data.tags.get(name) == value for name, value in {"job": "tune", **tags}.items())
            return run.info.run_id if same else None
    written = " and ".join(f"tags.`{name}` = {_quoted(value)}" for name, value in conditions.items())
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = client.search_runs(
        experiments,
        f"{written} and attributes.status = 'FINISHED'",
        ViewType.ACTIVE_ONLY,
        1,
        ["attributes.end_time DESC"],
    )
    return runs[0].info.run_id if runs else None


def read_json(tracking_uri: str, run_id: str, name: str) -> Any:
    """A JSON artifact of a run; None when it has none of that name."""
    client = MlflowClient(tracking_uri=tracking_uri)
    if name not in {artifact.path for artifact in client.list_artifacts(run_id)}:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8"))


def _quoted(value: str) -> str:
    """A value in a filter; one with both kinds of quotes cannot be written, and finds nothing."""
    return f'"{value}"' if "'" in value and '"' not in value else f"'{value.replace(chr(39), '')}'"
