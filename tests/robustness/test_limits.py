"""Requirements 12, 13 and 16: numbers, disk and memory that run out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from eyevsai.store.run_dir import RunDir
from eyevsai.training.checkpoint import Checkpoints
from tests.conftest import ROOT, TRAINED, Eyevsai
from tests.robustness.runs import Sandbox, make_sandbox
from tests.robustness.test_end import wait_for_epoch

SHORT_OF_MEMORY = """
import json, resource, sys
import torch
from pathlib import Path
from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings

spare, side = int(sys.argv[1]), int(sys.argv[3])
dataset = load_dataset(DataSettings(data=sys.argv[2]))
settings = DeepV1Settings(
    epochs=1, image_size=side, width=32, batch_size=32, precision="float32", threads=1,
    initial_scale=1.0, convolutions=1, pooling="late",
)
learner = DeepV1Learner("standard", settings, dataset.classes, 0)
data = dataset.open(learner.preprocessing)
rows = []
status = Path("/proc/self/status").read_text()
size = int(status.split("VmSize:")[1].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + spare, resource.RLIM_INFINITY))
try:
    learner.fit(data.train, data.valid, lambda epoch, row: rows.append(row))
except Exception as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error)}))
else:
    first = rows[0]
    print(json.dumps({"grad_accum_steps": first["grad_accum_steps"], "loss": first["train/loss"]}))
"""


def fit_within(spare_mib: int, stripes: Path, image_size: int = 128) -> dict:
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    command = [
        sys.executable,
        "-c",
        SHORT_OF_MEMORY,
        str(spare_mib << 20),
        str(stripes),
        str(image_size),
    ]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
@pytest.mark.requirement(16)
def test_batch_is_whole_where_memory_suffices(stripes: Path) -> None:
    assert fit_within(8192, stripes)["grad_accum_steps"] == 1


@pytest.mark.requirement(16)
@pytest.mark.parametrize(
    "spare_mib", [320, *(pytest.param(each, marks=pytest.mark.slow) for each in (360, 400, 440))]
)
def test_batch_that_does_not_fit_is_computed_in_parts(stripes: Path, spare_mib: int) -> None:
    halved = fit_within(spare_mib, stripes)
    assert halved["grad_accum_steps"] in (2, 4, 8, 16), halved


@pytest.mark.requirement(16)
def test_step_that_never_fits_is_refused(stripes: Path) -> None:
    refused = fit_within(320, stripes, image_size=512)
    assert refused["error"] == "JobError", refused
    assert "Try a smaller --image-size" in refused["text"]


@pytest.mark.requirement(12)
@pytest.mark.parametrize(
    "fault",
    [
        "nan:10",
        "inf:7",
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in ("nan:8", "inf:9", "inf:11", "nan:12")
        ),
    ],
)
def test_loss_that_is_not_finite_leaves_the_last_good_checkpoint(
    tmp_path: Path, template_store: Path, stripes: Path, fault: str
) -> None:
    sandbox = make_sandbox(tmp_path / "sandbox", template_store, stripes)
    done = sandbox.invoke(fault, code=1)
    assert "The weights were not updated" in done.stderr
    (run_id,) = sandbox.run_ids()
    assert sandbox.client.get_run(run_id).info.status == "FAILED"
    assert not sandbox.client.search_registered_models()
    checkpoint = Checkpoints(RunDir(sandbox.folder / "state", run_id).checkpoints).load()
    assert len(checkpoint.state["trainer"]["history"]) == 1
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.tensors.values())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no small file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def workplace(trained: Path) -> Path:
    return trained


def fill(folder: Path) -> Path:
    path = folder / "ballast"
    with open(path, "wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(1 << 12))
        except OSError:
            return path


def sync(sandbox: Sandbox) -> None:
    command = [sys.executable, "-m", "eyevsai", "sync"]
    synced = subprocess.run(
        command, cwd=sandbox.folder, env=sandbox.environment(), capture_output=True, text=True
    )
    assert synced.returncode == 0, synced.stdout + synced.stderr


@pytest.mark.requirement(13)
@pytest.mark.processes("the disk fills up beside a training, which is resumed")
def test_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, template_store: Path, stripes: Path, small_disk: Path
) -> None:
    sandbox = make_sandbox(tmp_path / "sandbox", template_store, stripes)
    env = sandbox.environment(FAULT="slow", EYEVSAI_STATE=str(small_disk))
    job = subprocess.Popen(
        sandbox.command(epochs=30, patience=30),
        cwd=sandbox.folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    wait_for_epoch(job)
    ballast = fill(small_disk)
    said = job.communicate(timeout=60)[0]
    assert job.returncode == 1, said
    assert "No space left" in said.splitlines()[-1]
    assert "Traceback" not in said
    (run_id,) = sandbox.run_ids()
    assert sandbox.client.get_run(run_id).info.status == "FAILED"
    assert not sandbox.client.search_registered_models()
    checkpoint = Checkpoints(RunDir(small_disk, run_id).checkpoints).load()
    assert checkpoint.state["trainer"]["history"]
    ballast.unlink()
    command = sandbox.command(resume=run_id)
    done = subprocess.run(
        command, cwd=sandbox.folder, env=env | {"FAULT": "none"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(sandbox.client.get_metric_history(run_id, "valid/loss")) == 30


@pytest.mark.requirement(13)
def test_export_without_room_is_refused_before_it_starts(
    trained: Path, eyevsai: Eyevsai, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    done = eyevsai("export", "--model-uri", f"models:/{TRAINED['deep_v1']}/1", code=2)
    assert f"MB in {small_disk}, which has" in done.stderr
    assert "Free disk space, or set TMPDIR to another folder." in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.requirement(13)
def test_artifacts_without_room_are_no_half_version(
    tmp_path: Path, template_store: Path, stripes: Path, small_disk: Path
) -> None:
    sandbox: Sandbox = make_sandbox(tmp_path / "sandbox", template_store, stripes)
    (sandbox.folder / "mlruns").symlink_to(small_disk)
    ballast = fill(small_disk)
    done = sandbox.run(epochs=1)
    assert done.returncode == 3, done.stderr
    assert "eyevsai sync" in done.stderr.splitlines()[-1]
    assert not sandbox.client.search_model_versions()
    ballast.unlink()
    sync(sandbox)
    assert len(sandbox.client.search_model_versions("name = 'stripes-deep_v1-standard'")) == 1


@pytest.mark.slow
@pytest.mark.requirement(13)
def test_full_database_disk_delays_nothing_and_is_synced_later(
    tmp_path: Path, template_store: Path, stripes: Path, small_disk: Path
) -> None:
    sandbox = make_sandbox(tmp_path / "sandbox", template_store, stripes)
    database = sandbox.folder / "mlflow.db"
    shutil.move(database, small_disk / "mlflow.db")
    # SQLite keeps its journal beside the file, not the link
    database.symlink_to(small_disk / "mlflow.db")
    job = sandbox.start("slow", epochs=12)
    wait_for_epoch(job)
    ballast = fill(small_disk)
    said = job.communicate(timeout=100)[0]
    assert job.returncode == 3, said
    assert "eyevsai sync" in said.splitlines()[-1]
    assert "Traceback" not in said
    (run_id,) = sandbox.run_ids()
    assert Checkpoints(RunDir(sandbox.folder / "state", run_id).checkpoints).load() is not None
    assert not sandbox.client.search_model_versions()
    ballast.unlink()
    sync(sandbox)
    assert sandbox.client.get_run(run_id).info.status == "FINISHED"
    assert len(sandbox.client.get_metric_history(run_id, "valid/loss")) == 12
    assert len(sandbox.client.search_model_versions("name = 'stripes-deep_v1-standard'")) == 1
