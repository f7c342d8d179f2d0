"""Progress of the child runs of a run."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from eyevsai.evaluation.metric_names import EPOCH_ACCURACY
from eyevsai.store.paging import list_experiments
from eyevsai.store.tags import JOB, PARENT


@dataclass(frozen=True)
class ChildRun:
    """A child run, with its latest epoch and accuracy, or the number of ended trials of a study.

    `epoch` is 0 and `accuracy` None before the first epoch has ended.
    """

    run_id: str
    name: tuple[str, str, str]  # dataset, model, variation
    job: str
    epoch: int
    accuracy: float | None
    trials: int


def find_running_children(tracking_uri: str, parent: str) -> list[ChildRun]:
    """Return the RUNNING child runs of the run `parent`.

    Returns [] if the store is unreachable: progress display must never fail a job.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        # those of a sweep are in the experiments of their datasets
        experiments = [each.experiment_id for each in list_experiments(client)]
        filter_string = f"tags.`{PARENT}` = '{parent}' and attributes.status = 'RUNNING'"
        return [
            _describe(client, run)
            for run in client.search_runs(experiments, filter_string, ViewType.ACTIVE_ONLY)
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
