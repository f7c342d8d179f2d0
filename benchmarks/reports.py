"""Duration of `eyevsai report` for 1,000 runs with 2,000 versions of 20 models.

All runs are evaluated, and all versions exported. Limit: 10 s, imports included. REGISTRY_RUNS=100
creates a smaller store.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.registry import RUNS, VERSIONS, fill, name_of

LIMIT_S, TURNS = 10, 3
CLASSES = [f"class {number}" for number in range(60)]


def add_results(uri: str) -> None:
    """Log the results of an evaluation to each run, and those of an export to each version."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from eyevsai.registry.entities import open_registry, read_models
    from eyevsai.store.paging import iter_pages, list_experiments

    client = MlflowClient(tracking_uri=uri)
    experiments = [each.experiment_id for each in list_experiments(client)]
    runs = iter_pages(lambda token: client.search_runs(experiments, page_token=token))
    for number, run in enumerate(runs):
        scores = {
            "best_valid_accuracy": 0.5,
            "test_accuracy": 0.1 + 0.8 * number / RUNS,
            "test_latency_ms": 2.0,
        }
        client.log_batch(
            run.info.run_id, [Metric(name, value, 1, 0) for name, value in scores.items()]
        )
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        (folder / "classes.json").write_text(json.dumps(CLASSES))
        (folder / "exports" / "onnx").mkdir(parents=True)
    for model in read_models(open_registry(uri)):
        for version in model.versions:
            for tag, text in {"export.onnx": "passed", "eyevsai.dataset_digest": "f" * 64}.items():
                client.set_model_version_tag(version.name, str(version.number), tag, text)


def main() -> None:
    from eyevsai.store.backend import open_store

    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        env = os.environ | {
            "MLFLOW_TRACKING_URI": uri,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        os.environ["MLFLOW_TRACKING_URI"] = uri
        open_store()
        fill(uri, Path(folder))
        add_results(uri)
        wall_seconds, cpu_seconds = [], []
        for _ in range(TURNS):
            start, cpu_before = time.perf_counter(), _children_cpu_seconds()
            command = [sys.executable, "-m", "eyevsai", "report", "--json"]
            process = subprocess.run(
                command, cwd=folder, env=env, check=True, capture_output=True, text=True
            )
            wall_seconds.append(time.perf_counter() - start)
            cpu_seconds.append(_children_cpu_seconds() - cpu_before)
        report = json.loads(process.stdout)
        assert (report["models"], report["versions"]) == (
            len({name_of(n) for n in range(RUNS)}),
            RUNS * VERSIONS,
        )
        print(
            f"{report['models']} models, {RUNS} runs, {report['versions']} versions, "
            f"{report['ready']} models ready"
        )
        print(
            f"  eyevsai report        {sorted(wall_seconds)[TURNS // 2]:6.2f} s   (limit {LIMIT_S} "
            f"s; {', '.join(f'{each:.2f}' for each in wall_seconds)}; CPU time "
            f"{sorted(cpu_seconds)[TURNS // 2]:.2f} s)"
        )


def _children_cpu_seconds() -> float:
    """Return the CPU seconds of finished child processes, which depend less on other load."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
