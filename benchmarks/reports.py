"""A report over 1,000 runs with 2,000 versions of 20 models, each judged and exported.

Limit: 10 s for `eyevsai report`, imports counted. REGISTRY_RUNS=100 makes a smaller store.
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


def judge(uri: str) -> None:
    """Says of each run what an evaluation would, and of each version what an export would."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric

    from eyevsai.registry.entities import open_registry, read_models
    from eyevsai.store.paging import iter_pages, list_experiments

    client = MlflowClient(tracking_uri=uri)
    experiments = [each.experiment_id for each in list_experiments(client)]
    runs = iter_pages(lambda token: client.search_runs(experiments, page_token=token))
    for number, run in enumerate(runs):
        scores = {
            "valid/best_accuracy": 0.5,
            "test/accuracy": 0.1 + 0.8 * number / RUNS,
            "test/latency_ms": 2.0,
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
        judge(uri)
        took, worked = [], []
        for _ in range(TURNS):
            began, before = time.perf_counter(), _work_of_children()
            command = [sys.executable, "-m", "eyevsai", "report", "--json"]
            done = subprocess.run(
                command, cwd=folder, env=env, check=True, capture_output=True, text=True
            )
            took.append(time.perf_counter() - began)
            worked.append(_work_of_children() - before)
        said = json.loads(done.stdout)
        assert (said["models"], said["versions"]) == (
            len({name_of(n) for n in range(RUNS)}),
            RUNS * VERSIONS,
        )
        print(
            f"{said['models']} models, {RUNS} runs, {said['versions']} versions, "
            f"{said['ready']} models ready"
        )
        print(
            f"  eyevsai report        {sorted(took)[TURNS // 2]:6.2f} s   (limit {LIMIT_S} s; "
            f"{', '.join(f'{each:.2f}' for each in took)}; of the processor "
            f"{sorted(worked)[TURNS // 2]:.2f} s)"
        )


def _work_of_children() -> float:
    """Seconds of the processor, which tell more than a clock where other programs share it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
