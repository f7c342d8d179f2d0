"""Runs that are killed and gone on with, for tests and benchmarks alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from mlflow import MlflowClient

from eyevsai.core.errors import TerminationRequested
from eyevsai.store.run_dir import RunDir
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.trainer import Trainer
from tests.conftest import experiments
from tests.invoke import ROOT, invoke

INJECT = Path(__file__).parent / "fault_injection"
NOT_COMPARED = ("system/", "images_per_s")
EPOCHS, STEPS = 4, 6  # of 42 images in batches of 8


class Killed(Exception):  # noqa: N818  # ends a process, is no failure
    """Stands for SIGKILL in this process: nothing of the run goes on after it."""


def inject(patch: pytest.MonkeyPatch, fault: str) -> None:
    """Inject a fault in this process.

    `kill:N` raises Killed in the Nth step, `stop:N` TerminationRequested, as SIGTERM does;
    `flip:N` flips a bit of the Nth checkpoint and then raises Killed; `nan:N` and `inf:N` make
    the loss of the Nth step such a number.
    """
    kind, _, count = fault.partition(":")
    backward, save, calls = Trainer._backward, Checkpoints.save, []

    def fail_in_step(self: Trainer, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == int(count) and kind in ("kill", "stop"):
            raise Killed if kind == "kill" else TerminationRequested
        logits, loss = backward(self, *arguments)
        return logits, loss * float(kind) if len(calls) == int(count) else loss

    def flip_after_save(self: Checkpoints, *arguments: Any) -> None:
        calls.append(1)
        save(self, *arguments)
        if len(calls) == int(count):
            path = max(self.folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
            raise Killed

    if kind in ("kill", "stop", "nan", "inf"):
        patch.setattr(Trainer, "_backward", fail_in_step)
    elif kind == "flip":
        patch.setattr(Checkpoints, "save", flip_after_save)


@dataclass(frozen=True)
class Outcome:
    """What a finished run left: metric history, and the state of its loop at the end."""

    metrics: dict[str, list[tuple[int, float]]]
    tensors: dict[str, torch.Tensor]
    status: str

    def equals(self, other: Outcome) -> bool:
        """Bit by bit, timings and what the machine did aside."""
        same = self.tensors.keys() == other.tensors.keys() and self.metrics == other.metrics
        return same and all(
            torch.equal(tensor, other.tensors[name]) for name, tensor in self.tensors.items()
        )


@dataclass(frozen=True)
class Sandbox:
    """A folder with a store of its own, in which runs are started as a person starts them."""

    folder: Path
    data: Path
    by_mlflow: bool = False

    def environment(self, **env: str) -> dict[str, str]:
        """What such a process finds around it."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return (
            os.environ
            | {
                "PATH": path,
                "PYTHONPATH": f"{INJECT}{os.pathsep}{ROOT}",
                "OMP_NUM_THREADS": "1",
                "FAULT": "none",
                "FAULT_KEEP": "1",
                "MLFLOW_TRACKING_URI": self.uri,
                "EYEVSAI_STATE": str(self.folder / "state"),
            }
            | env
        )

    def command(self, **settings: Any) -> list[str]:
        """`eyevsai train` or `mlflow run` with small settings."""
        values = {
            "data": self.data,
            "image_size": 32,
            "width": 4,
            "epochs": EPOCHS,
            "batch_size": 8,
            "precision": "float32",
            "dropout": 0.5,
            "head_units": 0,
        } | settings
        values = {name: value for name, value in values.items() if value is not None}
        if not self.by_mlflow:
            flags = [part for name, value in values.items() for part in (f"--{name}", str(value))]
            return [sys.executable, "-m", "eyevsai", "train", *flags]
        given = [part for name, value in values.items() for part in ("-P", f"{name}={value}")]
        return [
            sys.executable,
            "-m",
            "mlflow",
            "run",
            str(ROOT),
            "-e",
            "train",
            "--env-manager=local",
            *given,
        ]

    def run(
        self, fault: str = "none", env: Mapping[str, str] = MappingProxyType({}), **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs to the end, or until the fault."""
        return subprocess.run(
            self.command(**settings),
            cwd=self.folder,
            env=self.environment(FAULT=fault, **env),
            capture_output=True,
            text=True,
            timeout=280,
        )

    def invoke(
        self, fault: str = "none", code: int | None = 0, **settings: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `eyevsai train` in this process; `fault` raises Killed where the one of a process
        kills it.

        The run folder of a finished run is kept, as FAULT_KEEP keeps it.
        """
        environment = {"MLFLOW_TRACKING_URI": self.uri, "EYEVSAI_STATE": str(self.folder / "state")}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(RunDir, "delete", lambda folder: None)
            inject(patch, fault)
            words = self.command(**settings)[3:]
            return invoke(self.folder, *words, code=code, **environment)

    def start(self, fault: str = "none", **settings: Any) -> subprocess.Popen[str]:
        """Starts a run in a session of its own."""
        return subprocess.Popen(
            self.command(**settings),
            cwd=self.folder,
            env=self.environment(FAULT=fault),
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def uri(self) -> str:
        """The URI of the store."""
        return f"sqlite:///{self.folder / 'mlflow.db'}"

    @property
    def client(self) -> MlflowClient:
        """A client of the store."""
        return MlflowClient(tracking_uri=self.uri)

    def run_ids(self) -> list[str]:
        """All runs, the newest first."""
        return [run.info.run_id for run in self.client.search_runs(experiments(self.client))]

    def outcome(self, run_id: str) -> Outcome:
        """What a run left behind."""
        run = self.client.get_run(run_id)
        names = [name for name in run.data.metrics if not name.startswith(NOT_COMPARED)]
        history = {
            name: sorted(
                (point.step, point.value) for point in self.client.get_metric_history(run_id, name)
            )
            for name in names
        }
        checkpoint = Checkpoints(RunDir(self.folder / "state", run_id).checkpoints).load()
        return Outcome(history, checkpoint.tensors if checkpoint else {}, run.info.status)


def make_sandbox(folder: Path, store: Path, data: Path, *, by_mlflow: bool = False) -> Sandbox:
    """A new sandbox with a copy of an empty store."""
    import sqlite3

    folder.mkdir(parents=True)
    shutil.copy(store, folder / "mlflow.db")
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute(
            "update experiments set artifact_location = ?", [str(folder / "mlruns" / "0")]
        )
    database.close()
    return Sandbox(folder, data, by_mlflow)


def survives_here(sandbox: Sandbox, fault: str, expected: Outcome, **settings: Any) -> bool:
    """Return True if a run with `fault` that is then resumed ends as one that never had it, all in
    this process.
    """
    sandbox.invoke(fault, code=1, **settings)
    (run_id,) = sandbox.run_ids()
    sandbox.invoke(resume=run_id)
    assert sandbox.run_ids() == [run_id]
    return sandbox.outcome(run_id).equals(expected)


def survives(
    sandbox: Sandbox,
    fault: str,
    expected: Outcome,
    check: Callable[[Any], None] = lambda done: None,
    **settings: Any,
) -> bool:
    """Return True if a run that has `fault` and is then resumed ends as one that never had it."""
    killed = sandbox.run(fault, **settings)
    check(killed)
    (run_id,) = sandbox.run_ids()
    done = sandbox.run(resume=run_id)
    if done.returncode != 0:
        raise AssertionError(done.stdout + done.stderr)
    assert [
        sandbox.client.get_run(other).data.tags["eyevsai.source_run_id"]
        for other in sandbox.run_ids()
        if other != run_id
    ] == ([run_id] if sandbox.by_mlflow else [])
    return sandbox.outcome(run_id).equals(expected)
