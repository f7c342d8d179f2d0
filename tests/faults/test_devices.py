"""A run of two processes ends as one of one process does, whatever becomes of either; none is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from eyevsai.run_folder import RunFolder
from eyevsai.training.checkpoint import Checkpoints
from tests.conftest import find_port
from tests.faults.runs import Place, make_place
from tests.faults.test_end import end, wait_for_epoch

pytestmark = pytest.mark.xdist_group("devices")
GONE_S = 10.0


def children_of(job: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(job.pid).children(recursive=True)
    assert found
    return found


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=GONE_S)[1]


def only_status(place: Place) -> str:
    (run_id,) = place.run_ids()
    return str(place.client.get_run(run_id).info.status)


def test_a_rank_that_is_killed_ends_the_run_and_says_so(place: Place) -> None:
    job = place.start("slow", devices=2, epochs=1000, patience=0)
    wait_for_epoch(job)
    (rank_1,) = children_of(job)
    began = time.monotonic()
    rank_1.kill()
    said = job.communicate(timeout=60)[0]
    assert job.returncode == 1, said
    assert time.monotonic() - began < 10
    assert f"Rank 1 (process {rank_1.pid}) was ended by SIGKILL." in said.splitlines()[-1]
    assert "Traceback" not in said
    assert only_status(place) == "FAILED"
    assert not place.client.search_registered_models()


@pytest.mark.slow
def test_ranks_do_not_outlive_rank_0(place: Place) -> None:
    job = place.start("slow", devices=2, epochs=1000, patience=0)
    wait_for_epoch(job)
    others = children_of(job)
    job.kill()
    said = job.communicate(timeout=60)[0]
    assert gone(others)
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_and_the_run_goes_on_as_if_nothing_had_been(
    stripes: Path, template_store: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    whole, place = (make_place(tmp_path / name, template_store, stripes) for name in ("whole", "place"))
    settings = {"devices": 2, "epochs": 12, "patience": 0, "ema_decay": 0.9}
    assert whole.run(**settings).returncode == 0
    job = place.start("slow", **settings)
    wait_for_epoch(job)
    others = children_of(job)
    time.sleep(0.2)  # into the next epoch
    began = time.monotonic()
    os.killpg(job.pid, number)  # as Ctrl-C does, and as systems that end a job do
    said = job.communicate(timeout=60)[0]
    assert job.returncode == code, said
    assert time.monotonic() - began < 10
    assert gone(others)
    assert "Traceback" not in said
    assert only_status(place) == "KILLED"
    (run_id,) = place.run_ids()
    done = place.run(**settings, resume="auto")
    assert done.returncode == 0, done.stderr
    assert "Going on in epoch" in done.stderr
    assert place.run_ids() == [run_id]
    assert place.outcome(run_id).equals(whole.outcome(whole.run_ids()[0]))


@pytest.mark.slow
def test_another_number_of_devices_is_not_used_when_a_run_is_gone_on_with(place: Place) -> None:
    end(place, place.start("slow", devices=2, epochs=30, patience=0), signal.SIGTERM)
    (run_id,) = place.run_ids()
    done = place.run(resume=run_id, devices=3)
    assert done.returncode == 0, done.stderr
    assert "--devices 3 is not used: a resumed run keeps its settings." in done.stderr
    assert place.client.get_run(run_id).data.params["devices"] == "2"


@pytest.mark.slow
def test_a_signal_while_others_are_waited_for_ends_in_time(place: Place) -> None:
    env = place.environment(FAULT="hang:9", FAULT_RANK="1")
    command = place.command(devices=2, epochs=30)
    job = subprocess.Popen(
        command, cwd=place.folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait_for_epoch(job)
    others = children_of(job)
    time.sleep(2)
    began = time.monotonic()
    job.terminate()
    said = job.communicate(timeout=60)[0]
    assert job.returncode == 143, said
    assert time.monotonic() - began < 11.5  # the other one looks each second whether rank 0 is there
    assert gone(others)
    assert only_status(place) == "KILLED"


@pytest.mark.slow
def test_what_is_no_number_on_one_rank_ends_all_before_the_update(place: Place) -> None:
    done = place.run("nan:10", {"FAULT_RANK": "1"}, devices=2)
    assert done.returncode == 1
    assert done.stderr.count("The update was not made") == 2  # by the log and by the command
    assert "Traceback" not in done.stderr
    assert only_status(place) == "FAILED"
    (run_id,) = place.run_ids()
    checkpoint = Checkpoints(RunFolder(place.folder / "state", run_id).checkpoints).load()
    assert len(checkpoint.state["progress"]["rows"]) == 1
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.tensors.values())


@pytest.mark.slow
def test_memory_that_is_short_on_one_rank_makes_all_compute_in_parts(place: Place) -> None:
    done = place.run("short:10", {"FAULT_RANK": "1"}, devices=2)
    assert done.returncode == 0, done.stderr
    (run_id,) = place.run_ids()
    points = place.client.get_metric_history(run_id, "accumulation")
    assert [point.value for point in sorted(points, key=lambda point: point.step)] == [1, 2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(), (signal.SIGTERM,)])
def test_torchrun_on_several_machines(place: Place, numbers: tuple[int, ...]) -> None:
    """Two agents, as two machines have them: only rank 0 has a store."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
                "--master-addr=127.0.0.1", f"--master-port={find_port()}"]  # fmt: skip
    jobs = []
    for number, env in enumerate((place.environment(FAULT="slow"), place.environment(MLFLOW_TRACKING_URI="nowhere"))):
        command = [*torchrun, f"--node-rank={number}", *place.command(epochs=3 if not numbers else 1000)[1:]]
        jobs.append(subprocess.Popen(command, cwd=place.folder, env=env, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True))  # fmt: skip
    if numbers:
        wait_for_epoch(jobs[0])
        everybody = [each for job in jobs for each in children_of(job)]
        for job in jobs:
            job.terminate()
    said = [job.communicate(timeout=120)[0] for job in jobs]
    (run_id,) = place.run_ids()
    run = place.client.get_run(run_id)
    if numbers:
        assert run.info.status == "KILLED", said
        assert gone(everybody)
        return
    assert [job.returncode for job in jobs] == [0, 0], said
    assert (run.info.status, run.data.params["devices"]) == ("FINISHED", "2")
    assert "epoch 1 of" not in said[1]
