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
import threading
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
from mlflow.exceptions import MlflowException

from eyevsai.errors import Terminated
from eyevsai.run_folder import RunFolder
from eyevsai.tracking.process import BEAT_EVERY_S, describe_process, has_died

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger("eyevsai")

SYSTEM_METRICS_EVERY_S = 2.0
PARAMS_PER_CALL = 100
EXPERIMENT_KIND = ("mlflow.experimentKind", "custom_model_development")  # which pages the UI shows
RESUMED = "resume"  # the job of a run that `mlflow run` made and whose work went on in another
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

    def logged_epochs(self) -> set[int]:
        """The epochs whose rows the run has."""
        return {metric.step for metric in self.client.get_metric_history(self.run_id, "valid/loss")}

    def end(self, status: str) -> None:
        """Ends the run as FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)

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
def start_run(
    tracking_uri: str, name: str, tags: Mapping[str, Any], state_root: Path, *, given: str | None, resumed: str | None
) -> Iterator[Run]:
    """A run that ends as the block ends: FINISHED, KILLED when it was interrupted, else FAILED.

    `given` is the run that `mlflow run` made for this call: it is taken over instead of making another.
    `resumed` is an earlier run to go on with; then the given one only says so, and `sweep` deletes it later.

    Raises:
        UserError: another process works on the resumed run.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    if resumed:
        folder = RunFolder(state_root, resumed)
        lock = folder.claim()
        run = _reopen(client, resumed, given)
    else:
        run = _take_over(client, given, name) if given else _create(client, name)
        folder = RunFolder(state_root, run.run_id)
        lock = folder.claim()
        client.set_experiment_tag(run.experiment_id, *EXPERIMENT_KIND)
        run.tags({"eyevsai": "1", **tags, **_owner()})
    with lock, _logging_to(folder.log), _beating(folder):
        monitor = _start_monitor(run.run_id, tracking_uri)
        status = "FAILED"
        try:
            yield run
            status = "FINISHED"
        except (KeyboardInterrupt, Terminated) as error:
            status = "KILLED"
            run.tags({"ended_by": "SIGTERM" if isinstance(error, Terminated) else "SIGINT"})
            log.warning("Interrupted. Go on with: eyevsai train --resume %s", run.run_id)
            raise
        except BaseException as error:
            log.error("The run failed: %s", error)
            raise
        finally:
            _end(run, status, monitor, folder)
    folder.delete()  # only a finished run comes here


def why_not_resumable(tracking_uri: str, folder: RunFolder) -> str | None:
    """Why the run of `folder` cannot be gone on with; None when it can."""
    run_id = folder.run_id
    try:
        run = MlflowClient(tracking_uri=tracking_uri).get_run(run_id)
    except MlflowException:
        return f"There is no run {run_id} in the store. `mlflow ui` shows those that are there."
    if run.info.status == "FINISHED":
        return (
            f"Run {run_id} has finished ({run.data.tags.get('version', 'no version')}): there is nothing to go on with."
        )
    if run.info.lifecycle_stage != "active":
        return f"Run {run_id} was deleted. Restore it first: mlflow runs restore --run-id {run_id}"
    if run.info.status == "RUNNING" and not has_died(run.data.tags.get("process", ""), folder):
        return f"Run {run_id} is alive: another process is working on it. Wait for it, or end that process."
    return None


def _end(run: Run, status: str, monitor: Any, folder: RunFolder) -> None:
    """Ends a run whatever happens on the way: one whose log could not be kept has failed."""
    kept = False
    try:
        monitor.finish()
        run.client.log_artifact(run.run_id, str(folder.log))
        kept = True
    finally:
        run.end(status if kept or status != "FINISHED" else "FAILED")


def _owner() -> dict[str, str]:
    process = describe_process()
    return {"host": process["host"], "process": json.dumps(process)}


def _reopen(client: MlflowClient, run_id: str, given: str | None) -> Run:
    run = Run(client, run_id, client.get_run(run_id).info.experiment_id)
    run.tags(_owner())  # before the status, or a sweep in between would see a dead owner
    client.update_run(run_id, status="RUNNING")
    if given and given != run_id:
        stub = Run(client, given, run.experiment_id)
        stub.tags({"job": RESUMED, "subject": run_id, **_owner()})  # `mlflow run` ends it: docs/decisions/010-resume.md
    return run


@contextmanager
def _beating(folder: RunFolder) -> Iterator[None]:
    done = threading.Event()

    def beat() -> None:
        folder.beat()
        while not done.wait(BEAT_EVERY_S):
            folder.beat()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


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
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def _text(value: Any) -> str:
    return "" if value is None else str(value)
