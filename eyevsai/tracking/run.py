"""One MLflow run: everything a job says of itself goes through here."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow import MlflowClient

from eyevsai.core.errors import JobError
from eyevsai.store.run_dir import RunDir
from eyevsai.tracking.operations import CARRIERS, FILES, MODEL_FILES, Carrier
from eyevsai.tracking.spool import Spool

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATIENCE_S = 20.0  # for a store that does not answer
TABLES = "mlflow.loggedArtifacts"  # the tag by which MLflow's UI knows a run's tables


class Unsynced(JobError):
    """The work is done and on this machine; the store could not be told all of it."""

    exit_code = 3


class Run:
    """A run that is being written to, by way of a spool: no call waits for the store."""

    def __init__(
        self, client: MlflowClient, folder: RunDir, experiment_id: str, spool: Spool
    ) -> None:
        self.client = client
        self.folder = folder
        self.run_id = folder.run_id
        self.experiment_id = experiment_id
        self.spool = spool
        self.tables_: list[str] = []

    def params(self, values: Mapping[str, Any]) -> None:
        """Logs settings, except those that `mlflow run` logged already as it was given them."""
        self.spool.append("params", values={name: _text(value) for name, value in values.items()})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Sets tags of the run."""
        self.spool.append("tags", values={name: str(value) for name, value in values.items()})

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Logs one row of metrics."""
        numbers = {name: float(value) for name, value in values.items()}
        self.spool.append("metrics", values=numbers, time_ms=now_ms(), step=step)

    def logged_epochs(self) -> set[int]:
        """The epochs whose rows the run has; asks the store."""
        return {metric.step for metric in self.client.get_metric_history(self.run_id, "valid/loss")}

    def text(self, name: str, content: str) -> None:
        """Logs a text artifact; `name` may hold folders."""
        self._path(name).write_text(content, encoding="utf-8")
        self._file(name)

    def files(self, name: str, source: Path) -> None:
        """Logs all files of a folder as artifacts below `name`."""
        shutil.copytree(source, self._path(name), dirs_exist_ok=True)
        for path in sorted(path for path in source.rglob("*") if path.is_file()):
            self._file(f"{name}/{path.relative_to(source).as_posix()}")

    def json(self, name: str, content: Any) -> None:
        """Logs a value as a JSON artifact."""
        self.text(name, json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Logs a table in the form that MLflow's UI shows as one."""
        self.json(name, {"columns": list(columns), "data": [list(row) for row in rows]})
        self.tables_ = sorted({*self.tables_, name})
        self.tags({TABLES: json.dumps([{"path": path, "type": "table"} for path in self.tables_])})

    def picture(self, name: str, figure: Figure, *, tight: bool = False) -> None:
        """Logs a figure as a PNG artifact; `tight` makes room for what stands outside its axes."""
        figure.savefig(self._path(name), bbox_inches="tight" if tight else None)
        self._file(name)

    def dataset(
        self, name: str, digest: str, folders: Sequence[str], profile: Mapping[str, Any]
    ) -> None:
        """Logs what the run learned from as an MLflow dataset input."""
        self.spool.append(
            "dataset", name=name, digest=digest, folders=list(folders), profile=dict(profile)
        )

    def model(self, package: Path, name: str, params: Mapping[str, Any]) -> None:
        """Uploads a model folder, which lies in the run folder, as a logged model of this run."""
        texts = {key: _text(value) for key, value in params.items()}
        folder = package.relative_to(self.folder.path).as_posix()
        self.spool.append(
            "model", folder=folder, name=name, params=texts, experiment_id=self.experiment_id
        )

    def model_files(self, model_id: str, source: Path, name: str, last: str) -> None:
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
            self.spool.append("model_files", model_id=model_id, folder=f"{MODEL_FILES}/{part}")

    def operation(self, kind: str, **arguments: Any) -> None:
        """Adds an operation of another room, for which `start_run` was given a carrier."""
        self.spool.append(kind, **arguments)

    def flush(self) -> bool:
        """Waits until the store has been told everything; False when it does not answer.

        Raises:
            JobError: the store refused something.
        """
        left = self.spool.drain(PATIENCE_S)
        if self.spool.refused_ is not None:
            raise JobError(
                f"MLflow rejected what was logged: {self.spool.refused_}"
            ) from self.spool.refused_
        return left == 0

    def kill(self) -> None:
        """Ends the run as KILLED at once, past the spool: for a process that has no time left."""
        self.client.set_terminated(self.run_id, "KILLED")

    def _path(self, name: str) -> Path:
        path = self.folder.path / FILES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _file(self, name: str) -> None:
        parent = Path(name).parent.as_posix()
        self.spool.append(
            "file", file=f"{FILES}/{name}", artifact_folder=None if parent == "." else parent
        )


def make_spool(client: MlflowClient, folder: RunDir, carriers: Mapping[str, Carrier]) -> Spool:
    """The spool of a run, not yet started; `carriers` carry out operations of other rooms."""
    table = {**CARRIERS, **carriers}
    return Spool(folder.path, lambda kind, arguments: table[kind](client, folder, arguments))


def open_run(client: MlflowClient, folder: RunDir, carriers: Mapping[str, Carrier]) -> Run:
    """A run of the store, with its spool started."""
    spool = make_spool(client, folder, carriers)
    spool.start()
    return Run(client, folder, client.get_run(folder.run_id).info.experiment_id, spool)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def now_ms() -> int:
    """The time, in milliseconds since 1970, as MLflow counts it."""
    return int(time.time() * 1000)
