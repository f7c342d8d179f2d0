"""A person brings what the original's registry knew into this store."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import eyevsai as package
from eyevsai.cli.main import main
from eyevsai.core.errors import UserError
from tests.conftest import ROOT, Eyevsai, experiments
from tests.legacy_registry import make_record, write_registry

ENDED_MS = int(datetime(2025, 7, 5, 12, 20, 14, 886351).timestamp() * 1000)


def import_and_die(path: Path, method: str, count: int) -> int:
    """Import in a fork that ends itself by SIGKILL before the Nth call of a client's method; return
    its exit code.

    This process must not have opened the store.
    """
    child = os.fork()
    if child == 0:
        try:
            original, calls = getattr(MlflowClient, method), itertools.count(1)

            def call(*arguments: Any, **more: Any) -> Any:
                if next(calls) == count:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **more)

            setattr(MlflowClient, method, call)
            main(["registry", "import", str(path)])
        finally:
            os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def registry(workplace: Path) -> Path:
    return write_registry(
        workplace / "training_registry.json",
        make_record(1),
        make_record(2, best_validation_accuracy=0.5),
        make_record(3, model_type="deep-v1"),
        make_record(4, training_status="failed"),
    )


def contents() -> list[dict[str, Any]]:
    """All that the store knows of runs and versions, whatever their ids are."""
    client = MlflowClient()
    versions = {version.run_id: version for version in client.search_model_versions()}
    found = []
    for run in client.search_runs(experiments(client)):
        version, info = versions.pop(run.info.run_id, None), run.info
        found.append(
            {
                "times": (info.start_time, info.end_time),
                "status": info.status,
                "name": info.run_name,
                "params": run.data.params,
                "metrics": run.data.metrics,
                "tags": dict(run.data.tags),
                "history": [
                    len(client.get_metric_history(info.run_id, name)) for name in run.data.metrics
                ],
                "files": [each.path for each in client.list_artifacts(info.run_id)],
                "version": (version.name, version.tags) if version else None,
            }
        )
    assert not versions
    return sorted(found, key=lambda run: run["tags"]["imported"])


def test_a_registry_becomes_runs_and_versions(eyevsai: Eyevsai, registry: Path) -> None:
    said = eyevsai("registry", "import", str(registry)).stdout
    assert "model_000000000002: models:/pets-deep_v2-resnet/2, run " in said
    assert "model_000000000004: failed training, run " in said
    assert said.endswith("4 imported, 0 already imported, 0 rejected\n")
    first, _, third, failed = contents()
    assert first["times"] == (ENDED_MS - 3_600_500, ENDED_MS)
    assert first["metrics"]["best_valid_accuracy"] == 0.49
    assert first["params"]["dropout_rates"] == "[0.4, 0.3, 0.2]"
    assert first["files"] == ["record.json"]
    assert first["tags"]["version"] == "models:/pets-deep_v2-resnet/1"
    assert third["version"][0] == "pets-deep_v1-resnet"
    assert (failed["status"], failed["version"]) == ("FAILED", None)
    run_id = said.split("model_000000000001")[1].split("run ")[1].split()[0]
    text = MlflowClient().download_artifacts(run_id, "record.json")
    assert json.loads(Path(text).read_text()) == make_record(1)

    before = contents()
    again = json.loads(eyevsai("registry", "import", str(registry), "--json").stdout)
    assert again["written"] == []
    assert len(again["existing"]) == 4
    assert contents() == before


PLACES = [("log_text", 2), ("create_model_version", 2), ("set_tag", 1)]


@pytest.mark.parametrize(("method", "count"), PLACES)
def test_an_import_that_was_killed_is_finished(
    eyevsai: Eyevsai, registry: Path, method: str, count: int
) -> None:
    assert import_and_die(registry, method, count) == -signal.SIGKILL
    torn = contents()
    assert 0 < len(torn) < 4
    assert "version" not in torn[-1]["tags"]
    done = json.loads(eyevsai("registry", "import", str(registry), "--json").stdout)
    assert [each["model_id"] for each in done["written"]] == [
        f"model_{number:012x}" for number in range(len(torn), 5)
    ]
    found = contents()
    assert [run["status"] for run in found] == ["FINISHED"] * 3 + ["FAILED"]
    assert [run["version"] is not None for run in found] == [True] * 3 + [False]
    assert [run["times"][1] for run in found] == [ENDED_MS] * 4
    assert all(set(run["history"]) == {1} and run["files"] == ["record.json"] for run in found)
    eyevsai("registry", "import", str(registry))
    assert contents() == found


@pytest.mark.slow
def test_two_imports_at_once_add_each_record_once(workplace: Path) -> None:
    records = [make_record(number, dataset=f"pets{number % 4}") for number in range(30)]
    path = write_registry(workplace / "training_registry.json", *records)
    command = [sys.executable, "-m", "eyevsai", "registry", "import", str(path), "--json"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    jobs = [
        subprocess.Popen(command, cwd=workplace, env=env, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    done = [json.loads(job.communicate(timeout=120)[0]) for job in jobs]
    assert sorted(len(each["written"]) for each in done) == [0, 30]
    assert len(contents()) == 30


def test_an_imported_version_is_never_loaded(
    eyevsai: Eyevsai, registry: Path, stripes: Path
) -> None:
    eyevsai("registry", "import", str(registry))
    uri = "models:/pets-deep_v2-resnet/1"
    with pytest.raises(UserError, match="was imported"):
        package.load(uri)
    for command in (("predict", uri, str(stripes)), ("evaluate", "--model-uri", uri)):
        said = eyevsai(*command, code=2).stderr
        assert f"{uri} was imported" in said
        assert "Train the model again" in said


def test_a_bad_record_is_left_out_and_said(eyevsai: Eyevsai, workplace: Path) -> None:
    path = write_registry(
        workplace / "training_registry.json",
        make_record(1, model_type="quantum", dataset="my pets"),
        make_record(2, model_type="quantum", dataset="my_pets"),
        make_record(3, best_validation_accuracy=float("nan")),
    )
    said = eyevsai("registry", "import", str(path), code=1).stdout
    assert "quantum is not a family of eyevsai: imported unchanged" in said
    assert "model_000000000003 has best_validation_accuracy NaN, not a number from 0 to 1" in said
    assert (
        "model_000000000002 cannot be registered. The registered model my_pets-quantum-resnet "
        "belongs to" in said
    )
    assert said.endswith("1 imported, 0 already imported, 2 rejected\n")
    (run,) = contents()
    assert run["version"][0] == "my_pets-quantum-resnet"
    assert run["tags"]["dataset"] == "my pets"
    write_registry(path, make_record(3))
    assert "1 imported" in eyevsai("registry", "import", str(path)).stdout


def test_a_file_that_is_no_registry_adds_nothing(eyevsai: Eyevsai, workplace: Path) -> None:
    path = workplace / "other.json"
    assert "There is no file" in eyevsai("registry", "import", str(path), code=2).stderr
    path.write_text("models:")
    assert f"{path} is not JSON" in eyevsai("registry", "import", str(path), code=2).stderr
    assert "contains no records" in eyevsai("registry", "import", str(write_registry(path))).stdout
    assert contents() == []
