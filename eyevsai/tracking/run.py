"""One MLflow run: everything a job says of itself goes through here."""

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
from eyevsai.tracking.write_operations import FILES, MODEL_FILES, apply_operation
from eyevsai.tracking.write_queue import WriteQueue

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLUSH_TIMEOUT_S = 20.0  # for a store that does not answer
TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow's UI knows a run's tables


class SyncError(JobError):
    """The work is done and on this machine; the store could not be told all of it."""

    exit_code = 3


class Run:
    """A run that is being written to, by way of a write queue: no call waits for the store."""

    def __init__(
        self, client: MlflowClient, folder: RunDir, experiment_id: str, queue: WriteQueue
    ) -> None:
        self.client = client
        self.folder = folder
        self.run_id = folder.run_id
        self.experiment_id = experiment_id
        self.queue = queue
        self.tables: list[str] = []

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Logs settings, except those that `mlflow run` logged already as it was given them."""
        self.queue.append("params", values={name: _text(value) for name, value in values.items()})

    def set_tags(self, values: Mapping[str, Any]) -> None:
        """Sets tags of the run."""
        self.queue.append("tags", values={name: str(value) for name, value in values.items()})

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Logs one row of metrics."""
        numbers = {name: float(value) for name, value in values.items()}
        self.queue.append("metrics", values=numbers, time_ms=now_ms(), step=step)

    def logged_epochs(self) -> set[int]:
        """The epochs whose rows the run has; asks the store."""
        return {metric.step for metric in self.client.get_metric_history(self.run_id, "valid/loss")}

    def log_text(self, name: str, content: str) -> None:
        """Logs a text artifact; `name` may hold folders."""
        self._path(name).write_text(content, encoding="utf-8")
        self._file(name)

    def log_artifacts(self, name: str, source: Path) -> None:
        """Logs all files of a folder as artifacts below `name`."""
        shutil.copytree(source, self._path(name), dirs_exist_ok=True)
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            self._file(f"{name}/{path.relative_to(source).as_posix()}")

    def log_dict(self, name: str, content: Any) -> None:
        """Logs a value as a JSON artifact."""
        self.log_text(name, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table in the form that MLflow's UI shows as one."""
        self.log_dict(name, {"columns": list(columns), "data": [list(row) for row in rows]})
        self.tables = sorted({*self.tables, name})
        self.set_tags(
            {TABLES: json.dumps([{"path": path, "type": "table"} for path in self.tables])}
        )

    def log_figure(self, name: str, figure: Figure, *, tight: bool = False) -> None:
        """Logs a figure as a PNG artifact; `tight` makes room for what stands outside its axes."""
        figure.savefig(self._path(name), bbox_inches="tight" if tight else None)
        self._file(name)

    def log_input(
        self, name: str, digest: str, folders: Sequence[str], profile: Mapping[str, Any]
    ) -> None:
        """Logs what the run learned from as an MLflow dataset input."""
        self.queue.append(
            "dataset", name=name, digest=digest, folders=list(folders), profile=dict(profile)
        )

    def log_model(self, package: Path, name: str, params: Mapping[str, Any]) -> None:
        """Uploads a model folder, which lies in the run folder, as a logged model of this run."""
        texts = {key: _text(value) for key, value in params.items()}
        folder = package.relative_to(self.folder.path).as_posix()
        self.queue.append(
            "model", folder=folder, name=name, params=texts, experiment_id=self.experiment_id
        )

    def log_model_files(self, model_id: str, source: Path, name: str, last: str) -> None:
        """Uploads all files of a folder into a logged model, below `name`.

        The one called `last` goes after the others: where it is, all are.
        """
        first, then = (self.folder.path / MODEL_FILES / part / name for part in ("first", "then"))
        shutil.copytree(
            source,
            first,
            dirs_exist_ok=True,
            ignore=lambda folder, _: [last] if folder == str(source) else [],
        )
        then.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / last, then)
        for part in ("first", "then"):
            self.queue.append("model_files", model_id=model_id, folder=f"{MODEL_FILES}/{part}")

    def enqueue(self, kind: str, **arguments: Any) -> None:
        """Append an operation to the write queue; `write_operations` has a handler of its kind."""
        self.queue.append(kind, **arguments)

    def flush(self) -> bool:
        """Waits until the store has been told everything; False when it does not answer.

        Raises:
            JobError: the store refused something.
        """
        left = self.queue.flush(FLUSH_TIMEOUT_S)
        if self.queue.rejected is not None:
            raise JobError(
                f"MLflow rejected what was logged: {self.queue.rejected}"
            ) from self.queue.rejected
        return left == 0

    def kill(self) -> None:
        """Ends the run as KILLED at once, past the write queue: for a process that has no time
        left.
        """
        self.client.set_terminated(self.run_id, "KILLED")

    def _path(self, name: str) -> Path:
        path = self.folder.path / FILES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _file(self, name: str) -> None:
        parent = Path(name).parent.as_posix()
        self.queue.append(
            "file", file=f"{FILES}/{name}", artifact_folder=None if parent == "." else parent
        )


def make_write_queue(client: MlflowClient, folder: RunDir) -> WriteQueue:
    """Return the write queue of a run, not yet started."""
    return WriteQueue(folder.path, partial(apply_operation, client, folder))


def open_run(client: MlflowClient, folder: RunDir) -> Run:
    """Return a run of the store, with its write queue started."""
    queue = make_write_queue(client, folder)
    queue.start()
    return Run(client, folder, client.get_run(folder.run_id).info.experiment_id, queue)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def now_ms() -> int:
    """The time, in milliseconds since 1970, as MLflow counts it."""
    return int(time.time() * 1000)
