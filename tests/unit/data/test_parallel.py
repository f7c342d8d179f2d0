from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from eyevsai.core.errors import UserError
from eyevsai.data.parallel import CHUNK, parallel_map
from tests.conftest import ROOT


def double(numbers: Sequence[int]) -> list[int]:
    return [2 * number for number in numbers]


def name_process(numbers: Sequence[int]) -> int:
    return os.getpid()


def make_tensor(numbers: Sequence[int]) -> torch.Tensor:
    return torch.zeros(len(numbers))


def fail_at_100(numbers: Sequence[int]) -> None:
    if 100 in numbers:
        raise UserError("number 100 is bad")


def fill_the_disk(numbers: Sequence[int]) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def die(numbers: Sequence[int]) -> None:
    if 100 in numbers:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("count", [0, 1, CHUNK, CHUNK + 1, 5 * CHUNK - 1])
def test_every_item_once_and_in_order(count: int) -> None:
    done = [
        number for numbers in parallel_map(double, range(count), "Doubling") for number in numbers
    ]
    assert done == [2 * number for number in range(count)]


def test_a_chunk_stays_here_and_more_go_to_workers() -> None:
    assert set(parallel_map(name_process, range(CHUNK), "Naming")) == {os.getpid()}
    assert os.getpid() not in set(parallel_map(name_process, range(4 * CHUNK), "Naming"))


@pytest.mark.parametrize("count", [CHUNK, 4 * CHUNK])
def test_tensors_which_need_shared_memory_are_refused(count: int) -> None:
    with pytest.raises(TypeError, match="arrays instead of tensors"):
        list(parallel_map(make_tensor, range(count), "Making"))


def test_torchs_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    list(parallel_map(double, range(4 * CHUNK), "Doubling"))
    assert torch.equal(torch.get_rng_state(), before)


def test_errors_arrive_as_they_were_raised() -> None:
    with pytest.raises(UserError, match=r"^number 100 is bad$"):
        list(parallel_map(fail_at_100, range(300), "Failing"))


def test_an_error_of_the_system_keeps_its_number() -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        list(parallel_map(fill_the_disk, range(300), "Failing"))
    assert caught.value.errno == errno.ENOSPC


def test_a_worker_that_dies_is_said() -> None:
    with pytest.raises(UserError, match="exited unexpectedly"):
        list(parallel_map(die, range(300), "Dying"))


def test_ctrl_c_ends_all_processes_without_a_word(tmp_path: Path) -> None:
    code = (
        "import signal, time\nfrom eyevsai.data.parallel import parallel_map\n"
        # a suite in the background ignores Ctrl-C
        "signal.signal(signal.SIGINT, signal.default_int_handler)\ndef wait(numbers): "
        "open('began', 'w').close(); time.sleep(0.2)\ntry: list(parallel_map(wait, "
        "range(10_000), 'Waiting'))\nexcept KeyboardInterrupt: print('interrupted')"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    job = subprocess.Popen(
        [sys.executable, "-c", code],
        env=env,
        cwd=tmp_path,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "began").exists():
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGINT)
    out, err = job.communicate(timeout=30)
    assert (out, err) == ("interrupted\n", "")
    with pytest.raises(ProcessLookupError):
        os.killpg(job.pid, 0)
