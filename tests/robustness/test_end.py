"""Requirement 5: whatever ends a run, its status is true, and what can be gone on with is on
disk.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import pytest

from eyevsai.core.errors import TerminationRequested
from eyevsai.store.run_dir import RunDir
from eyevsai.tracking.liveness import describe_process, is_stale
from eyevsai.tracking.stale_runs import reap_stale_runs
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.workflows import shutdown
from eyevsai.workflows.shutdown import ending_with_mlflow_run, ending_with_parent, handling_signals
from tests.conftest import experiments
from tests.forks import join_forks, start_fork
from tests.robustness.runs import Sandbox


def wait_for_epoch(job: subprocess.Popen[str]) -> None:
    assert job.stdout is not None
    said = []
    for line in job.stdout:
        said.append(line)
        if line.startswith("epoch 1 "):
            return
    raise AssertionError("".join(said))


def end(sandbox: Sandbox, job: subprocess.Popen[str], *numbers: int) -> tuple[float, str]:
    """Sends signals half a second apart; returns how long the job took to end, and what it said."""
    wait_for_epoch(job)
    time.sleep(0.3)  # into the next epoch: at the very end of one there is no step to save
    began = time.monotonic()
    for number in numbers:
        job.send_signal(number)
        time.sleep(0.2)
    said = job.communicate(timeout=60)[0]
    return time.monotonic() - began, said


@pytest.mark.requirement(5)
@pytest.mark.parametrize(
    ("numbers", "code"),
    [((signal.SIGTERM,), 143), ((signal.SIGINT, signal.SIGTERM, signal.SIGINT), 130)],
)
def test_signal_saves_the_step_and_ends_the_run_killed(
    sandbox: Sandbox, numbers: tuple[int, ...], code: int
) -> None:
    job = sandbox.start("slow", epochs=1000, patience=0)
    seconds, said = end(sandbox, job, *numbers)
    assert job.returncode == code, said
    assert seconds < 10
    assert "Traceback" not in said
    (run_id,) = sandbox.run_ids()
    assert f"--resume {run_id}" in said
    run = sandbox.client.get_run(run_id)
    assert (run.info.status, run.data.tags["eyevsai.termination_reason"]) == (
        "KILLED",
        signal.Signals(numbers[0]).name,
    )
    progress = (
        Checkpoints(RunDir(sandbox.folder / "state", run_id).checkpoints).load().state["trainer"]
    )
    assert progress["steps"] > 0 or len(progress["history"]) > 1


@pytest.mark.requirement(5)
def test_step_that_hangs_leaves_the_last_checkpoint(sandbox: Sandbox) -> None:
    job = sandbox.start("hang:9", epochs=1000)
    wait_for_epoch(job)
    time.sleep(1.5)
    began = time.monotonic()
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=30)[0]
    assert job.returncode == 143
    assert time.monotonic() - began < 10
    assert "Saved checkpoints are kept" in said
    (run_id,) = sandbox.run_ids()
    assert sandbox.client.get_run(run_id).info.status == "KILLED"
    progress = (
        Checkpoints(RunDir(sandbox.folder / "state", run_id).checkpoints).load().state["trainer"]
    )
    assert (len(progress["history"]), progress["steps"]) == (1, 0)


@pytest.mark.requirement(5)
@pytest.mark.slow
@pytest.mark.parametrize("sandbox", [True], indirect=True)
def test_trainer_ends_with_the_mlflow_run_above_it(sandbox: Sandbox) -> None:
    job = sandbox.start("slow", epochs=1000, patience=0)
    wait_for_epoch(job)
    trainers = psutil.Process(job.pid).children(recursive=True)
    os.kill(job.pid, signal.SIGKILL)
    gone, alive = psutil.wait_procs(trainers, timeout=12)
    assert gone
    assert not alive
    (run_id,) = sandbox.run_ids()
    assert sandbox.client.get_run(run_id).info.status == "KILLED"
    job.stdout.close()


@pytest.mark.requirement(5)
def test_stale_run_is_marked_failed_and_a_live_one_left_alone(sandbox: Sandbox) -> None:
    client, gone = sandbox.client, start_fork(int)
    assert join_forks([gone]) == [0]
    dead = describe_process() | {"pid": gone.pid}
    tags = {"eyevsai.schema": "2", "eyevsai.job": "train", "eyevsai.host": platform.node()}
    live, stale = (
        client.create_run("0", tags=tags | {"eyevsai.process": json.dumps(process)}).info.run_id
        for process in (describe_process(), dead)
    )
    done = sandbox.invoke(epochs=1)
    assert f"Run {stale} was left RUNNING" in done.stderr
    assert client.get_run(stale).info.status == "FAILED"
    assert "stale" in client.get_run(stale).data.tags["eyevsai.termination_reason"]
    assert client.get_run(live).info.status == "RUNNING"
    assert "is in use by" in sandbox.invoke(resume=live, code=2).stderr


@pytest.mark.requirement(5)
@pytest.mark.processes("forks: the parent of a job dies")
@pytest.mark.parametrize("ending", [ending_with_parent, ending_with_mlflow_run])
def test_job_ends_when_its_parent_dies(
    monkeypatch: pytest.MonkeyPatch, ending: Callable[[], AbstractContextManager[None]]
) -> None:
    reading, writing = os.pipe()
    middle = os.fork()
    if middle == 0:
        parent, words = os.getpid(), ["python", "-m", "mlflow", "run", "."]
        monkeypatch.setattr(
            shutdown, "_read_command", lambda process: words if process.pid == parent else []
        )
        if os.fork() == 0:
            try:
                with handling_signals(), ending():
                    os.write(writing, b"started ")
                    time.sleep(20)
            except TerminationRequested:
                os.write(writing, b"terminated")
            finally:
                os._exit(0)
        time.sleep(1)
        os._exit(0)
    os.waitpid(middle, 0)
    os.close(writing)
    with open(reading) as stream:
        assert stream.read() == "started terminated"


@pytest.mark.requirement(5)
@pytest.mark.slow
def test_next_start_marks_a_killed_run_and_leaves_a_live_one(sandbox: Sandbox) -> None:
    dead, living = (
        sandbox.start("slow", epochs=1000, patience=0),
        sandbox.start("slow", epochs=1000, patience=0),
    )
    for job in (dead, living):
        wait_for_epoch(job)
    dead.kill()
    dead.communicate()
    (dead_id,) = [run for run in sandbox.run_ids() if owner(sandbox, run) == dead.pid]
    (living_id,) = [run for run in sandbox.run_ids() if owner(sandbox, run) == living.pid]
    done = sandbox.run(epochs=1)
    assert f"Run {dead_id} was left RUNNING" in done.stderr
    assert sandbox.client.get_run(dead_id).info.status == "FAILED"
    assert "stale" in sandbox.client.get_run(dead_id).data.tags["eyevsai.termination_reason"]
    assert sandbox.client.get_run(living_id).info.status == "RUNNING"
    refused = sandbox.run(resume=living_id)
    assert refused.returncode == 2
    assert "is in use by" in refused.stderr
    living.terminate()
    living.communicate(timeout=30)
    assert sandbox.client.get_run(living_id).info.status == "KILLED"


def owner(sandbox: Sandbox, run_id: str) -> int:
    return int(json.loads(sandbox.client.get_run(run_id).data.tags["eyevsai.process"])["pid"])


@pytest.mark.requirement(5)
@pytest.mark.parametrize(
    ("changes", "beat_age_s", "died"),
    [
        ({}, None, False),
        ({"started": 1.0}, None, True),  # the number was given to another process
        ({"host": "elsewhere", "pid": 2**22 - 1}, 3600, False),
        ({"boot": "an earlier one"}, None, False),  # or another machine of the same name
        ({"boot": "an earlier one"}, 3600, True),
        ({"namespace": "another container"}, None, False),
        ({"namespace": "another container"}, 1, False),
        ({"namespace": "another container"}, 3600, True),
    ],
)
def test_stale_process_detection(
    tmp_path: Path, changes: dict, beat_age_s: float | None, died: bool
) -> None:
    folder = RunDir(tmp_path, "run")
    if beat_age_s is not None:
        folder.path.mkdir(parents=True)
        folder.record_heartbeat()
        os.utime(folder.path / "heartbeat", (time.time() - beat_age_s,) * 2)
    assert is_stale(json.dumps(describe_process() | changes), folder) is died
    assert not is_stale("no process at all", folder)


def test_the_run_of_a_call_that_resumed_is_deleted_later(sandbox: Sandbox) -> None:
    client = sandbox.client
    run = client.create_run("0", tags={"eyevsai.job": "resume", "eyevsai.stub": "true"})
    client.set_terminated(run.info.run_id, "FINISHED")
    uri = f"sqlite:///{sandbox.folder / 'mlflow.db'}"
    reap_stale_runs(uri, sandbox.folder)
    assert sandbox.run_ids() == [run.info.run_id]  # `mlflow run` may not have left it yet
    client.set_terminated(run.info.run_id, "FINISHED", end_time=int(time.time() * 1000) - 60_000)
    reap_stale_runs(uri, sandbox.folder)
    assert sandbox.run_ids() == []


def test_an_interrupted_run_that_mlflow_run_set_failed_is_killed_again(sandbox: Sandbox) -> None:
    client = sandbox.client
    for tags in (
        {"eyevsai.termination_reason": "SIGINT"},
        {"eyevsai.termination_reason": "stale: its process ended unexpectedly"},
        {},
    ):
        run = client.create_run("0", tags={"eyevsai.host": platform.node(), **tags})
        client.set_terminated(run.info.run_id, "FAILED", end_time=1_000)
    reap_stale_runs(f"sqlite:///{sandbox.folder / 'mlflow.db'}", sandbox.folder)
    ends = {
        run.data.tags.get("eyevsai.termination_reason", "")[:6]: run.info
        for run in client.search_runs(experiments(client))
    }
    assert {name: info.status for name, info in ends.items()} == {
        "SIGINT": "KILLED",
        "stale:": "FAILED",
        "": "FAILED",
    }
    assert ends["SIGINT"].end_time == 1_000


@pytest.mark.requirement(5)
@pytest.mark.slow
def test_interrupted_evaluation_ends_killed_or_is_marked_failed(sandbox: Sandbox) -> None:
    assert sandbox.run(epochs=1, patience=0).returncode == 0
    (trained,) = sandbox.run_ids()
    command = [
        sys.executable,
        "-m",
        "eyevsai",
        "evaluate",
        "--run",
        trained,
        "--corruption-images",
        "100000",
    ]

    def interrupt(number: int) -> tuple[int, str]:
        known = set(sandbox.run_ids())
        job = subprocess.Popen(
            command, cwd=sandbox.folder, env=sandbox.environment(), stderr=subprocess.DEVNULL
        )
        while not (made := set(sandbox.run_ids()) - known):
            assert job.poll() is None
            time.sleep(0.02)
        job.send_signal(number)
        job.wait(timeout=30)
        (run_id,) = made
        return job.returncode, run_id

    code, ended = interrupt(signal.SIGTERM)
    assert (code, sandbox.client.get_run(ended).info.status) == (143, "KILLED")
    code, killed = interrupt(signal.SIGKILL)
    assert (code, sandbox.client.get_run(killed).info.status) == (-signal.SIGKILL, "RUNNING")
    subprocess.run(
        command, cwd=sandbox.folder, env=sandbox.environment(), check=True, capture_output=True
    )
    assert sandbox.client.get_run(killed).info.status == "FAILED"
    assert sandbox.client.get_run(trained).info.status == "FINISHED"
