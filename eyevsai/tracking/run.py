"""One MLflow run: everything a job says of itself goes through here.

Only MLflow's client is used, never its fluent functions: those keep an active run that an
`atexit` hook ends as FINISHED whatever happened.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
)

from eyevsai.errors import Terminated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("eyevsai")

SYSTEM_METRICS_EVERY_S = 2.0
PARAMS_PER_CALL = 100
EXPERIMENT_KIND = ("mlflow.experimentKind", "custom_model_development")  # which pages the UI shows
GIVEN_BY_MLFLOW = re.compile(r"[a-z]+-[a-z]+-\d+")  # names such as bold-fish-123


class Run:
    """A run that is being written to."""

    def __init__(self, client: MlflowClient, run_id: str, experiment_id: str) -> None:
        self.client = client
        self.run_id = run_id
        self.experiment_id = experiment_id

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs settings, except those that `mlflow run` logged already as it was given them."""
        there = self.client.get_run(self.run_id).data.params
        new = [Param(name, _text(value)) for name, value in values.items() if name not in there]
        for start in range(0, len(new), PARAMS_PER_CALL):
            self.client.log_batch(self.run_id, params=new[start : start + PARAMS_PER_CALL])

    def tags(self, values: Mapping[str, Any]) -> None:
        """Sets tags of the run."""
        self.client.log_batch(self.run_id, tags=[RunTag(name, str(value)) for name, value in values.items()])

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Logs one row of metrics."""
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, [Metric(name, float(value), now, step) for name, value in values.items()])

    def text(self, name: str, content: str) -> None:
        """Logs a text artifact; `name` may hold folders."""
        self.client.log_text(self.run_id, content, name)

    def json(self, name: str, content: Any) -> None:
        """Logs a value as a JSON artifact."""
        self.text(name, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")

    def picture(self, name: str, figure: Figure) -> None:
        """Logs a figure as a PNG artifact."""
        self.client.log_figure(self.run_id, figure, name)

    def dataset(self, name: str, digest: str, folders: Sequence[str], profile: Mapping[str, Any]) -> None:
        """Logs what the run learned from as an MLflow dataset input."""
        entity = Dataset(
            name=name, digest=digest[:36], source_type="local", source=json.dumps({"uri": ", ".join(folders)}),
            profile=json.dumps(profile),
        )  # fmt: skip
        context = InputTag("mlflow.data.context", "training")
        self.client.log_inputs(self.run_id, [DatasetInput(entity, [context])])

    def model(self, folder: Path, name: str, params: Mapping[str, Any]) -> str:
        """Uploads a model folder as a logged model of this run and returns its id."""
        texts = {key: _text(value) for key, value in params.items()}
        model = self.client.create_logged_model(self.experiment_id, name, source_run_id=self.run_id, params=texts)
        try:
            self.client.log_model_artifacts(model.model_id, str(folder))
        except BaseException:
            self.client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
            raise
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])
        return str(model.model_id)


@contextmanager
def start_run(tracking_uri: str, name: str, tags: Mapping[str, Any], run_id: str | None = None) -> Iterator[Run]:
    """A run that ends as the block ends: FINISHED, KILLED when it was interrupted, else FAILED.

    With `run_id` the run that `mlflow run` made is taken over instead of making another.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    run = _take_over(client, run_id, name) if run_id else _create(client, name)
    client.set_experiment_tag(run.experiment_id, *EXPERIMENT_KIND)
    run.tags({"eyevsai": "1", **tags})
    with tempfile.TemporaryDirectory() as folder, _logging_to(Path(folder) / "training.log") as log_file:
        monitor = _start_monitor(run.run_id, tracking_uri)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except (KeyboardInterrupt, Terminated):
            status = "KILLED"
            log.warning("Interrupted.")
            raise
        except BaseException as error:
            log.error("The run failed: %s", error)
            raise
        finally:
            _end(run, status, monitor, log_file)


def _end(run: Run, status: str, monitor: Any, log_file: Path) -> None:
    """Ends a run whatever happens on the way: one whose log could not be kept has failed."""
    kept = False
    try:
        monitor.finish()
        run.client.log_artifact(run.run_id, str(log_file))
        kept = True
    finally:
        run.client.set_terminated(run.run_id, status if kept or status != "FINISHED" else "FAILED")


def _create(client: MlflowClient, name: str) -> Run:
    experiment_id = _find_experiment(client)
    tags = {"mlflow.user": getpass.getuser(), "mlflow.source.name": "eyevsai", "mlflow.source.type": "LOCAL"}
    created = client.create_run(experiment_id, tags=tags, run_name=name)
    return Run(client, created.info.run_id, experiment_id)


def _take_over(client: MlflowClient, run_id: str, name: str) -> Run:
    info = client.get_run(run_id).info
    if GIVEN_BY_MLFLOW.fullmatch(info.run_name or ""):
        client.update_run(run_id, name=name)
    return Run(client, run_id, info.experiment_id)


def _find_experiment(client: MlflowClient) -> str:
    """The experiment that MLflow's own variables name, else Default."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if not name or os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return os.environ.get("MLFLOW_EXPERIMENT_ID") or "0"
    experiment = client.get_experiment_by_name(name)
    return experiment.experiment_id if experiment else client.create_experiment(name)


def _start_monitor(run_id: str, tracking_uri: str) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitor = SystemMetricsMonitor(run_id, sampling_interval=SYSTEM_METRICS_EVERY_S, tracking_uri=tracking_uri)
    monitor.start()
    return monitor


@contextmanager
def _logging_to(path: Path) -> Iterator[Path]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield path
    finally:
        log.removeHandler(handler)
        handler.close()


def _text(value: Any) -> str:
    return "" if value is None else str(value)
