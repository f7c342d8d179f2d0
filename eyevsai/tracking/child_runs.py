"""How far the runs under a run are."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from eyevsai.evaluation.metric_names import EPOCH_ACCURACY
from eyevsai.store.tags import JOB, PARENT


@dataclass(frozen=True)
class ChildRun:
    """A run under another one, with the epoch of its newest accuracy, or how many of a study's
    trials ended.
    """

    run_id: str
    name: tuple[str, str, str]  # dataset, model, variation
    job: str
    epoch: int
    accuracy: float | None
    trials: int


def find_running_children(tracking_uri: str, parent: str) -> list[ChildRun]:
    """The runs under `parent` that are RUNNING; none when the store does not answer, by which
    nobody is to fail.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        experiment = client.get_run(parent).info.experiment_id
        wanted = f"tags.`{PARENT}` = '{parent}' and attributes.status = 'RUNNING'"
        return [
            _describe(client, run)
            for run in client.search_runs([experiment], wanted, ViewType.ACTIVE_ONLY)
        ]
    except MlflowException:
        return []


def _describe(client: MlflowClient, run: Run) -> ChildRun:
    tags, metrics = run.data.tags, run.data.metrics
    history = (
        client.get_metric_history(run.info.run_id, EPOCH_ACCURACY)
        if EPOCH_ACCURACY in metrics
        else []
    )
    last = max(history, key=lambda point: point.step, default=None)
    ended = sum(int(value) for name, value in metrics.items() if name.startswith("trials/"))
    name = (tags.get("dataset", ""), tags.get("model", ""), tags.get("variation", ""))
    epoch, accuracy = (last.step, last.value) if last else (0, None)
    return ChildRun(run.info.run_id, name, tags.get(JOB, ""), epoch, accuracy, ended)
