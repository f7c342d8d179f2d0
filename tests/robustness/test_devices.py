"""A run of two processes ends as one of one process does, whatever becomes of either; none is left
behind.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from eyevsai.store.run_dir import RunDir
from eyevsai.training.checkpoint import Checkpoints
from tests.conftest import find_port, write_images
from tests.robustness.runs import Sandbox, make_sandbox
from tests.robustness.test_end import end, wait_for_epoch

pytestmark = pytest.mark.xdist_group("devices")
GONE_S = 10.0


def children_of(job: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(job.pid).children(recursive=True)
    assert found
    return found


def gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=GONE_S)[1]


def only_status(sandbox: Sandbox) -> str:
    (run_id,) = sandbox.run_ids()
    return str(sandbox.client.get_run(run_id).info.status)


@pytest.mark.requirement(5)
def test_a_rank_that_is_killed_ends_the_run_and_says_so(sandbox: Sandbox) -> None:
    job = sandbox.start("slow", devices=2, epochs=1000, patience=0)
    wait_for_epoch(job)
    (rank_1,) = children_of(job)
    connections = [
        each for process in (psutil.Process(job.pid), rank_1) for each in process.net_connections()
    ]
    heard = {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    assert heard <= {"127.0.0.1", "::1"}, heard  # or the whole network could take part
    began = time.monotonic()
    rank_1.kill()
    said = job.communicate(timeout=60)[0]
    assert job.returncode == 1, said
    assert time.monotonic() - began < 10
    assert f"Rank 1 (process {rank_1.pid}) was killed by SIGKILL." in said.splitlines()[-1]
    assert "Traceback" not in said
    assert only_status(sandbox) == "FAILED"
    assert not sandbox.client.search_registered_models()


@pytest.mark.slow
def test_ranks_do_not_outlive_rank_0(sandbox: Sandbox) -> None:
    job = sandbox.start("slow", devices=2, epochs=1000, patience=0)
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
    whole, sandbox = (
        make_sandbox(tmp_path / name, template_store, stripes) for name in ("whole", "sandbox")
    )
    settings = {"devices": 2, "epochs": 12, "patience": 0, "ema_decay": 0.9}
    assert whole.run(**settings).returncode == 0
    job = sandbox.start("slow", **settings)
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
    assert only_status(sandbox) == "KILLED"
    (run_id,) = sandbox.run_ids()
    done = sandbox.run(**settings, resume="auto")
    assert done.returncode == 0, done.stderr
    assert "Resuming at epoch" in done.stderr
    assert sandbox.run_ids() == [run_id]
    assert sandbox.outcome(run_id).equals(whole.outcome(whole.run_ids()[0]))


@pytest.mark.slow
def test_another_number_of_devices_is_not_used_when_a_run_is_gone_on_with(sandbox: Sandbox) -> None:
    end(sandbox, sandbox.start("slow", devices=2, epochs=30, patience=0), signal.SIGTERM)
    (run_id,) = sandbox.run_ids()
    done = sandbox.run(resume=run_id, devices=3)
    assert done.returncode == 0, done.stderr
    assert "--devices 3 is not used: a resumed run keeps its settings." in done.stderr
    assert sandbox.client.get_run(run_id).data.params["devices"] == "2"


@pytest.mark.slow
def test_a_signal_while_others_are_waited_for_ends_in_time(sandbox: Sandbox) -> None:
    env = sandbox.environment(FAULT="hang:9", FAULT_RANK="1")
    command = sandbox.command(devices=2, epochs=30)
    job = subprocess.Popen(
        command,
        cwd=sandbox.folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for_epoch(job)
    others = children_of(job)
    time.sleep(2)
    began = time.monotonic()
    job.terminate()
    said = job.communicate(timeout=60)[0]
    assert job.returncode == 143, said
    # the other one looks each second whether rank 0 is there
    assert time.monotonic() - began < 11.5
    assert gone(others)
    assert only_status(sandbox) == "KILLED"


@pytest.mark.slow
def test_what_is_no_number_on_one_rank_ends_all_before_the_update(sandbox: Sandbox) -> None:
    done = sandbox.run("nan:10", {"FAULT_RANK": "1"}, devices=2)
    assert done.returncode == 1
    assert done.stderr.count("The weights were not updated") == 2  # by the log and by the command
    assert "Traceback" not in done.stderr
    assert only_status(sandbox) == "FAILED"
    (run_id,) = sandbox.run_ids()
    checkpoint = Checkpoints(RunDir(sandbox.folder / "state", run_id).checkpoints).load()
    assert len(checkpoint.state["trainer"]["history"]) == 1
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.tensors.values())


@pytest.mark.slow
def test_memory_that_is_short_on_one_rank_makes_all_compute_in_parts(sandbox: Sandbox) -> None:
    done = sandbox.run("short:10", {"FAULT_RANK": "1"}, devices=2)
    assert done.returncode == 0, done.stderr
    (run_id,) = sandbox.run_ids()
    points = sandbox.client.get_metric_history(run_id, "grad_accum_steps")
    assert [point.value for point in sorted(points, key=lambda point: point.step)] == [1, 2, 2, 2]


def start_two_machines(
    sandbox: Sandbox, data: Path | None = None, **settings: Any
) -> list[subprocess.Popen[str]]:
    """Two agents of torchrun, as two machines have them: the second has no store, and images of its
    own if given.
    """
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes=2",
        "--nproc-per-node=1",
        "--master-addr=127.0.0.1",
        f"--master-port={find_port()}",
    ]
    first = sandbox.command(**settings)[1:]
    second = ["-m", "eyevsai", "train", *(["--data", str(data)] if data else [])]
    return [
        subprocess.Popen(
            [*torchrun, f"--node-rank={number}", *command],
            cwd=sandbox.folder,
            env=sandbox.environment(**env),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, (command, env) in enumerate(
            ((first, {"FAULT": "slow"}), (second, {"MLFLOW_TRACKING_URI": "x"}))
        )
    ]


@pytest.mark.slow
def test_torchrun_on_two_machines_is_one_run(sandbox: Sandbox) -> None:
    said = [(job, job.communicate(timeout=120)[0]) for job in start_two_machines(sandbox, epochs=3)]
    assert [job.returncode for job, _ in said] == [0, 0], said
    (run_id,) = sandbox.run_ids()
    run = sandbox.client.get_run(run_id)
    assert (run.info.status, run.data.params["devices"]) == ("FINISHED", "2")
    assert "epoch 1 of" not in said[1][1]


@pytest.mark.slow
def test_torchrun_that_is_asked_to_end_ends_the_run_killed(sandbox: Sandbox) -> None:
    jobs = start_two_machines(sandbox, epochs=1000, patience=0)
    wait_for_epoch(jobs[0])
    ranks = [each for job in jobs for each in children_of(job)]
    for job in jobs:
        job.terminate()
    said = [job.communicate(timeout=60)[0] for job in jobs]
    assert only_status(sandbox) == "KILLED", said
    assert gone(ranks)


@pytest.mark.slow
def test_a_machine_with_other_images_is_refused_before_a_run_is_made(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    other = write_images(tmp_path / "stripes", {"across": 20, "down": 20, "wide": 21})
    jobs = start_two_machines(sandbox, other, epochs=3)
    said = [job.communicate(timeout=120)[0] for job in jobs]
    assert ", rank 1: Mismatch with rank 0 in data. Use the same on all machines." in said[0]
    assert not sandbox.run_ids()
