"""Launcher of distributed training: rank 0 starts, monitors and ends the other ranks.

Rank 0 is the process of the command. Only rank 0 uses the tracking store, logs the run, writes
checkpoints and handles signals. See docs/decisions/023-devices.md.
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
from eyevsai.core.process_tree import kill_group, start_group
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
LOOPBACK_INTERFACES = {"linux": "lo", "darwin": "lo0"}  # by platform; Windows has no names
FAILURE_WAIT_S = 2.0  # wait for the failure reason of a rank after a lost connection
EXIT_WAIT_S = 10.0  # wait for the exit of the other ranks after a successful run


@dataclass
class RankLauncher:
    """Ranks of a distributed run, as seen by rank 0.

    Args:
        info: rank info of this process, rank 0.
        store: rendezvous store.
        processes: processes that this one started, by rank; empty under torchrun.
    """

    info: RankInfo
    store: Store
    processes: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def join(self, config: TrainConfig, dataset: Dataset, learner: Learner) -> None:
        """Publish the configuration, wait until all ranks are ready, and join the process group.

        Args:
            config: settings of the run, which all ranks use.
            dataset: images and labels; those of all ranks must match.
            learner: prepared learner; the initial weights of all ranks must match.

        Raises:
            UserError: a rank has other data, preprocessing, code, packages or weights, or could not
                load its data.
            JobError: a rank exited, or the rendezvous store is unreachable.
        """
        published = {"config": config.flat(), "fingerprint": digest_fingerprint(dataset, learner)}
        self.store.set(CONFIG, json.dumps(published))
        try:
            for rank in range(1, self.info.world_size):
                self._wait_for(rank)
        except distributed.DistError as error:  # the store is torchrun's
            raise JobError(f"The rendezvous store is unreachable: {error}") from error
        self.info.join(config, self.store, self.explain_failure)

    def _wait_for(self, rank: int) -> None:
        """Wait until a rank is ready, without a timeout: loading a large dataset takes long.

        Raises:
            UserError: the rank reported an error.
            JobError: a rank exited.
        """
        while not self.store.check([f"{READY}/{rank}"]):
            if reason := self._find_failure():
                raise JobError(reason)
            time.sleep(POLL_S)
        if rejection := self._read(f"{READY}/{rank}"):
            raise UserError(rejection)

    def explain_failure(self, error: Exception) -> str:
        """Return the reason of a lost connection: a rank's failure or exit, else `error` itself.

        Waits up to `FAILURE_WAIT_S` for the reason.
        """
        deadline = time.monotonic() + FAILURE_WAIT_S
        while time.monotonic() < deadline:
            if reason := self._find_failure():
                return reason
            time.sleep(POLL_S)
        return f"Another process of this run has exited or is unreachable: {error}"

    def end(self, *, is_successful: bool) -> None:
        """End the processes that this one started: they have no state that rank 0 lacks.

        Args:
            is_successful: wait up to `EXIT_WAIT_S` for them to exit; otherwise kill them at once.
        """
        deadline = time.monotonic() + (EXIT_WAIT_S if is_successful else 0.0)
        for process in self.processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                kill_group(process)

    def _read(self, key: str) -> str:
        value: bytes = self.store.get(key)
        return value.decode()

    def _find_failure(self) -> str:
        """Return the failure reason of a rank, or the way its process exited; empty if none did."""
        for rank in range(1, self.info.world_size):
            with suppress(RuntimeError):  # the store is unreachable
                if self.store.check([f"{FAILURE}/{rank}"]):
                    return self._read(f"{FAILURE}/{rank}")
        for rank, process in self.processes.items():
            if (code := process.poll()) is not None:
                return f"Rank {rank} (process {process.pid}) {describe_exit(code)}."
        return ""


@contextmanager
def launching_ranks(config: TrainConfig, rank: RankInfo | None) -> Iterator[RankLauncher | None]:
    """Launch the other ranks of a run inside the block; yield None for a run of one process.

    Starts the ranks on this machine unless torchrun started them. At the end of the block they have
    exited, this process has left the process group, and torch has its previous number of threads.

    Args:
        config: settings of the run, including the number of devices.
        rank: rank info set by torchrun; None outside of torchrun.

    Raises:
        UserError: this machine has too few devices, or torchrun started another number of processes
            than the run to resume has.
    """
    settings = config.model.settings
    size = settings.devices if isinstance(settings, TrainingSettings) else 1
    if rank is not None and rank.world_size != size:
        raise UserError(
            f"Cannot resume the run: it has --devices {size}, but torchrun started "
            f"{rank.world_size} processes. Start {size}."
        )
    if not isinstance(settings, TrainingSettings) or size == 1:
        yield None
        return
    check_devices(rank.local_world_size if rank else size, find_device(settings.device))
    threads = torch.get_num_threads()
    launcher = RankLauncher(rank, rank.open_store()) if rank else _launch(config, size)
    is_successful = False
    try:
        yield launcher
        is_successful = True
    finally:
        launcher.end(is_successful=is_successful)
        leave_group()
        torch.set_num_threads(threads)


def _launch(config: TrainConfig, size: int) -> RankLauncher:
    """Start the other ranks on this machine; they import modules while this one loads images."""
    if sys.platform in LOOPBACK_INTERFACES:  # gloo must not listen on other networks
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK_INTERFACES[sys.platform])
    info = RankInfo(0, size, 0, size, LOOPBACK, 0, hosts_store=True, launcher=os.getpid())
    tcp_store = info.open_tcp_store()
    info = replace(info, port=tcp_store.port)
    launcher = RankLauncher(info, PrefixStore(info.attempt, tcp_store))
    folders = ["--data-dir", config.data.data_dir, "--cache-dir", config.data.cache_dir]
    for rank in range(1, size):
        env = os.environ | replace(info, rank=rank, local_rank=rank).environment()
        # Ctrl-C must reach rank 0 only, which stops all ranks
        launcher.processes[rank] = start_group(
            [sys.executable, "-m", "eyevsai", "train", *folders],
            env=env,
            stdin=subprocess.DEVNULL,
        )
    return launcher
