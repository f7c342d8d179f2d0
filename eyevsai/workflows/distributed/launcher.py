"""Rank 0 of a run of several processes: it starts the others, knows how they ended, and leaves none
behind.

It is the process that a person or `mlflow run` started, and has the store, the run, the checkpoints
and the signals as a run of one process has. See docs/decisions/023-devices.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store

from eyevsai.config import TrainConfig
from eyevsai.core.errors import JobError, UserError
from eyevsai.core.machine import describe_exit
from eyevsai.data.dataset import Dataset
from eyevsai.models.learner import Learner
from eyevsai.training.device import check_devices, find_device
from eyevsai.training.process_group import leave_group
from eyevsai.training.settings import TrainingSettings
from eyevsai.workflows.distributed.rank import (
    CONFIG,
    FAILURE,
    POLL_S,
    READY,
    RankInfo,
    digest_fingerprint,
)

LOOPBACK = "127.0.0.1"
EXPLAIN_S, END_S = 2.0, 10.0


@dataclass
class RankLauncher:
    """All ranks of a run, from when they are started until the run has ended."""

    info: RankInfo
    store: Store
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def join(self, config: TrainConfig, dataset: Dataset, learner: Learner) -> None:
        """Waits until all ranks have what they need, and joins their group.

        Raises:
            UserError: one of them has other data or another eyevsai, or cannot begin.
        """
        said = {"config": config.flat(), "fingerprint": digest_fingerprint(dataset, learner)}
        self.store.set(CONFIG, json.dumps(said))
        try:
            for rank in range(1, self.info.world_size):
                self._wait_for(rank)
        except distributed.DistError as error:  # of torchrun
            raise JobError(f"The store at which processes meet is gone: {error}") from error
        self.info.join(config, self.store, self.explain_failure)

    def _wait_for(self, rank: int) -> None:
        """Waits until a rank has read its images, however many those are."""
        while not self.store.check([f"{READY}/{rank}"]):
            if reason := self._find_failure():
                raise JobError(reason)
            time.sleep(POLL_S)
        if refusal := self._read(f"{READY}/{rank}"):
            raise UserError(refusal)

    def explain_failure(self, error: Exception) -> str:
        """What a lost connection means: the last words of a rank, or how its process ended."""
        deadline = time.monotonic() + EXPLAIN_S
        while time.monotonic() < deadline:
            if reason := self._find_failure():
                return reason
            time.sleep(POLL_S)
        return f"Another process of this run is gone or out of reach: {error}"

    def end(self, *, done: bool) -> None:
        """Ends the other processes of this machine: they keep nothing that rank 0 has not."""
        deadline = time.monotonic() + (END_S if done else 0.0)
        for process in self.processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _read(self, key: str) -> str:
        said: bytes = self.store.get(key)
        return said.decode()

    def _find_failure(self) -> str:
        """How a rank ended, if one did; empty otherwise."""
        for rank in range(1, self.info.world_size):
            with suppress(RuntimeError):  # a store that is gone says nothing
                if self.store.check([f"{FAILURE}/{rank}"]):
                    return self._read(f"{FAILURE}/{rank}")
        for rank, process in self.processes.items():
            if (code := process.poll()) is not None:
                return f"Rank {rank} (process {process.pid}) {describe_exit(code)}."
        return ""


@contextmanager
def launching_ranks(config: TrainConfig, rank: RankInfo | None) -> Iterator[RankLauncher | None]:
    """Launch the other ranks of a run whose rank 0 is this process; None if it is alone.

    Ranks on this machine are started here, unless torchrun did, and have ended when the block ends.

    Raises:
        UserError: this machine has fewer devices, or a run to go on with had another number.
    """
    settings = config.model.settings
    size = settings.devices if isinstance(settings, TrainingSettings) else 1
    if rank is not None and rank.world_size != size:
        raise UserError(
            f"The run began with --devices {size}, and torchrun started {rank.world_size} "
            "processes. Only as many go on with it exactly."
        )
    if not isinstance(settings, TrainingSettings) or size == 1:
        yield None
        return
    check_devices(rank.local_world_size if rank else size, find_device(settings.device))
    threads = torch.get_num_threads()
    launcher = RankLauncher(rank, rank.open_store()) if rank else _launch(config, size)
    done = False
    try:
        yield launcher
        done = True
    finally:
        launcher.end(done=done)
        leave_group()
        torch.set_num_threads(threads)


def _launch(config: TrainConfig, size: int) -> RankLauncher:
    """The other processes of a run on this machine: they import what they need while this one reads
    images.
    """
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else's network, either
    own = RankInfo(0, size, 0, size, LOOPBACK, 0, hosts_store=True, launcher=os.getpid())
    port = own.open_tcp_store()
    own = replace(own, port=port.port)
    launcher = RankLauncher(own, PrefixStore(own.attempt, port))
    roots = ["--data-dir", config.data.data_dir, "--cache-dir", config.data.cache_dir]
    for rank in range(1, size):
        env = os.environ | replace(own, rank=rank, local_rank=rank).environment()
        launcher.processes[rank] = subprocess.Popen(
            [sys.executable, "-m", "eyevsai", "train", *roots],
            env=env,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for rank 0, which tells the others
        )
    return launcher
