"""Speed of registry commands with 1,000 runs and 2,000 versions.

Uses SQLite and, if it is installed, PostgreSQL. Runs have as many settings, metrics and tags as
those of `train`; their files are tiny. REGISTRY_RUNS=100 creates a smaller store.

Limits: `registry status` 3 s; `promote` 2 s, without the evaluation for its checks, since the
versions have no model files; plan of a cleanup 5 s; deletion of versions, with runs, logged models
and files, 50 per second. Imports are not counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.variables import read_number

RUNS, MODELS = read_number("REGISTRY_RUNS", 1000, 1), 20
VERSIONS = 2  # per run, each with its own logged model
CODE = "import sys; from benchmarks.registry import measure; measure(sys.argv[1])"


def fill(uri: str, folder: Path) -> None:
    """Create the runs, and their logged models and versions."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(tracking_uri=uri)
    experiment_id = client.create_experiment(
        "registry", artifact_location=str(folder / "mlruns" / "registry")
    )
    params = {f"setting_{number}": str(number) for number in range(60)} | {"variation": "standard"}
    metrics = [
        Metric(f"metric_{number}", 0.5, 1, step) for number in range(20) for step in range(5)
    ]
    for number in range(MODELS):
        tags_of_name = {"dataset": "pets", "model": "deep_v1", "variation": str(number)}
        client.create_registered_model(name_of(number), tags=tags_of_name)
    for number in range(RUNS):
        run = client.create_run(experiment_id, tags={"eyevsai.schema": "2", "eyevsai.job": "train"})
        tags = [RunTag(f"tag_{tag}", "of a run") for tag in range(20)]
        client.log_batch(run.info.run_id, metrics, [Param(*each) for each in params.items()], tags)
        client.set_terminated(run.info.run_id)
        _write_files(run.info.artifact_uri)
        for _ in range(VERSIONS):
            model = client.create_logged_model(
                experiment_id, source_run_id=run.info.run_id, params=params
            )
            _write_files(model.artifact_location)
            client.finalize_logged_model(model.model_id, "READY")
            client.create_model_version(
                name_of(number),
                f"models:/{model.model_id}",
                run.info.run_id,
                tags={f"tag_{tag}": "of a version" for tag in range(12)},
            )


def name_of(number: int) -> str:
    """Return the name of the registered model of a run."""
    return f"pets-deep_v1-{number % MODELS}"


def _write_files(location: str) -> None:
    folder = Path(location.removeprefix("file://"))
    folder.mkdir(parents=True)
    for number in range(5):
        (folder / f"{number}.json").write_text("x" * 100)


def measure(uri: str) -> None:
    """Print the duration of each command, without imports."""
    from eyevsai.registry import deletion, orphans  # noqa: F401
    from eyevsai.registry.entities import open_registry
    from eyevsai.registry.settings import CleanupSettings, PromoteSettings
    from eyevsai.workflows.registry.cleanup import cleanup
    from eyevsai.workflows.registry.cleanup_plan import make_plan
    from eyevsai.workflows.registry.promote import promote
    from eyevsai.workflows.registry.status import read_status

    client, state_dir = open_registry(uri), str(Path.cwd() / "state")
    promote(
        PromoteSettings(
            name=name_of(1), version=1, force=True, reason="imports", state_dir=state_dir
        )
    )
    print(f"  registry status       {_timed(lambda: read_status(None)):6.2f} s   (limit 3 s)")
    forced = PromoteSettings(
        name=name_of(0), version=1, force=True, reason="it has no files", state_dir=state_dir
    )
    print(f"  promote, without checks   {_timed(lambda: promote(forced)):4.2f} s   (limit 2 s)")
    settings = CleanupSettings(keep=3, yes=True, state_dir=state_dir)
    everything = CleanupSettings(all=True, state_dir=state_dir, cache_dir=str(Path.cwd() / "cache"))
    print(
        f"  plan of a cleanup     {_timed(lambda: make_plan(client, settings)):6.2f} s   (limit "
        "5 s)"
    )
    print(f"  plan of --all         {_timed(lambda: make_plan(client, everything)):6.2f} s")
    delete_seconds: list[float] = []
    original = deletion.Deletion.delete

    def delete(*arguments: Any) -> None:
        delete_seconds.append(_timed(lambda: original(*arguments)))

    deletion.Deletion.delete = delete  # type: ignore[assignment,method-assign]
    start = time.perf_counter()
    result = cleanup(settings, lambda plan: True)
    versions = sum(len(item.versions) for item in result.deleted)
    print(f"  deletion              {versions / sum(delete_seconds):6.0f} versions/s   (limit 50)")
    print(
        f"  whole cleanup         {time.perf_counter() - start:6.1f} s for {versions} "
        "versions, two plans included"
    )


def _timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run(uri: str, folder: Path) -> None:
    """Fill a store, and measure the commands in a new process."""
    from eyevsai.store.backend import open_store

    os.environ["MLFLOW_TRACKING_URI"] = uri
    open_store()
    fill(uri, folder)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, "-c", CODE, uri], cwd=folder, env=env, check=True)


def main() -> None:
    from tests.conftest import create_database, find_postgres, start_postgres

    with tempfile.TemporaryDirectory() as folder:
        print(f"SQLite, {RUNS} runs and {RUNS * VERSIONS} versions", flush=True)
        run(f"sqlite:///{folder}/mlflow.db", Path(folder))
    if not find_postgres():
        print("skipped: PostgreSQL is not installed. Run: apt-get install postgresql")
        return
    with tempfile.TemporaryDirectory() as folder, start_postgres() as server:
        print(f"PostgreSQL, {RUNS} runs and {RUNS * VERSIONS} versions", flush=True)
        run(create_database(server, "registry"), Path(folder))
