"""An MLflow run to which jobs log through a write queue."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient

from eyevsai.core.errors import JobError
from eyevsai.store.run_dir import RunDir
from eyevsai.store.ui_links import make_link, run_page
from eyevsai.tracking.write_operations import FILES, MODEL_FILES, apply_operation
from eyevsai.tracking.write_queue import WriteQueue, rejection_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLUSH_TIMEOUT_S = 20.0  # for which the store may fail before a flush gives up
TABLES = "mlflow.loggedArtifacts"  # the tag from which MLflow's UI reads the tables of a run


class SyncError(JobError):
    """Some writes are still pending: the results are complete, but only on this machine."""

    exit_code = 3


class Run:
    """A run that is being logged to.

    Writes are appended to the write queue and return before the store has them. They raise JobError
    if the store rejected an earlier write, or the disk is full.
    """

    def __init__(
        self, client: MlflowClient, folder: RunDir, experiment_id: str, queue: WriteQueue
    ) -> None:
        self.client = client
        self.folder = folder
        self.run_id = folder.run_id
        self.experiment_id = experiment_id
        self.queue = queue
        self.tables: list[str] = []

    @property
    def url(self) -> str:
        """URL of the run's page in MLflow's UI, as `make_link` returns it."""
        return make_link(self.client.tracking_uri, run_page(self.experiment_id, self.run_id))

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Log parameters, except those that the run has already, for example from `mlflow run`."""
        texts = {name: _to_text(value) for name, value in values.items()}
        self.queue.append("params", values=texts)

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Set tags of the run; values are converted to text."""
        self.queue.append("tags", values={name: str(value) for name, value in values.items()})

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log metrics of one step at the current time."""
        numbers = {name: float(value) for name, value in values.items()}
        self.queue.append("metrics", values=numbers, time_ms=now_ms(), step=step)

    def logged_epochs(self) -> set[int]:
        """Return the epochs whose metrics are in the store; waits for the store."""
        return {metric.step for metric in self.client.get_metric_history(self.run_id, "valid/loss")}

    def log_result(self, text: str) -> None:
        """Update the result in the description of the run; what people wrote there is kept."""
        self.queue.append("result", result=text)

    def log_text(self, name: str, content: str) -> None:
        """Log a text artifact; `name` is a path that may contain folders."""
        self._create_path(name).write_text(content, encoding="utf-8")
        self._append_file(name)

    def log_artifacts(self, name: str, source: Path) -> None:
        """Log all files of a folder as artifacts below the path `name`."""
        shutil.copytree(source, self._create_path(name), dirs_exist_ok=True)
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            self._append_file(f"{name}/{path.relative_to(source).as_posix()}")

    def log_dict(self, name: str, content: Any) -> None:
        """Log a value as a JSON artifact; values that JSON does not support become text."""
        self.log_text(name, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Log a table as a JSON artifact in the format that MLflow's UI shows as a table.

        Args:
            name: path of the artifact.
            columns: names of the columns.
            rows: one value per column.
        """
        self.log_dict(name, {"columns": list(columns), "data": [list(row) for row in rows]})
        self.tables = sorted({*self.tables, name})
        self.set_tags(
            {TABLES: json.dumps([{"path": path, "type": "table"} for path in self.tables])}
        )

    def log_figure(self, name: str, figure: Figure, *, tight: bool = False) -> None:
        """Log a figure as an image artifact, in the format of the suffix of `name`.

        Args:
            name: path of the artifact.
            figure: figure to render.
            tight: fit the image to the content, including text outside the axes.
        """
        figure.savefig(self._create_path(name), bbox_inches="tight" if tight else None)
        self._append_file(name)

    def log_input(
        self, name: str, digest: str, folders: Sequence[str], profile: Mapping[str, Any]
    ) -> None:
        """Log the training data as an MLflow dataset input.

        Args:
            name: name of the dataset.
            digest: digest of the images; MLflow stores the first 36 characters.
            folders: paths or URIs of the data.
            profile: statistics of the data, as JSON values.
        """
        self.queue.append(
            "dataset", name=name, digest=digest, folders=list(folders), profile=dict(profile)
        )

    def log_model(self, model_dir: Path, name: str, params: Mapping[str, Any]) -> None:
        """Log a model directory as a logged model of this run.

        Args:
            model_dir: model directory, inside the run directory.
            name: name of the logged model.
            params: parameters of the logged model; values are converted to text.
        """
        texts = {key: _to_text(value) for key, value in params.items()}
        folder = model_dir.relative_to(self.folder.path).as_posix()
        self.queue.append(
            "model", folder=folder, name=name, params=texts, experiment_id=self.experiment_id
        )

    def log_model_files(self, model_id: str, source: Path, name: str, last: str) -> None:
        """Upload all files of a folder to a logged model.

        Args:
            model_id: logged model.
            source: folder with the files; they are copied to the run directory first.
            name: folder for the files in the logged model.
            last: name of the file that is uploaded after all others, so that its presence proves a
                complete upload.
        """
        parts = ("first", "then")
        first_dir, last_dir = (self.folder.path / MODEL_FILES / part / name for part in parts)
        shutil.copytree(
            source,
            first_dir,
            dirs_exist_ok=True,
            ignore=lambda folder, _: [last] if folder == str(source) else [],
        )
        last_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / last, last_dir)
        for part in parts:
            self.queue.append("model_files", model_id=model_id, folder=f"{MODEL_FILES}/{part}")

    def enqueue(self, kind: str, **arguments: Any) -> None:
        """Append an operation to the write queue.

        `write_operations` must have a handler for `kind`; the arguments must be JSON values.
        """
        self.queue.append(kind, **arguments)

    def flush(self) -> bool:
        """Wait until all writes are applied; return False if some are still pending.

        Gives up when the store has failed for `FLUSH_TIMEOUT_S`.

        Raises:
            JobError: the store rejected a write.
        """
        pending = self.queue.flush(FLUSH_TIMEOUT_S)
        if self.queue.rejected is not None:
            raise rejection_error(self.queue.rejected) from self.queue.rejected
        return pending == 0

    def kill(self) -> None:
        """End the run as KILLED immediately, bypassing the write queue.

        For a process that will be killed before the queue is flushed.
        """
        self.client.set_terminated(self.run_id, "KILLED")

    def _create_path(self, name: str) -> Path:
        """Return the local path of an artifact; its folder is created."""
        path = self.folder.path / FILES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _append_file(self, name: str) -> None:
        """Append the upload of an artifact to the write queue."""
        parent = Path(name).parent.as_posix()
        self.queue.append(
            "file", file=f"{FILES}/{name}", artifact_folder=None if parent == "." else parent
        )


def make_write_queue(client: MlflowClient, folder: RunDir) -> WriteQueue:
    """Return the write queue of a run, without starting it."""
    return WriteQueue(folder.path, partial(apply_operation, client, folder))


def open_run(client: MlflowClient, folder: RunDir) -> Run:
    """Return an existing run of the store for logging, with its write queue started."""
    queue = make_write_queue(client, folder)
    queue.start()
    return Run(client, folder, client.get_run(folder.run_id).info.experiment_id, queue)


def _to_text(value: Any) -> str:
    return "" if value is None else str(value)


def now_ms() -> int:
    """Return the current time in milliseconds since 1970, MLflow's unit of time."""
    return int(time.time() * 1000)
