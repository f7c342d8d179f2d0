"""Rank of this process, and the rendezvous of all ranks before the process group exists.

Ranks are passed in torchrun's environment variables, which are set by torchrun, or by rank 0 for
the ranks that it starts on its machine. Rank 0 also sets `EYEVSAI_LAUNCHER`. Imports torch only
in functions: `rank_from_env` is called before the inputs of a command are checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from eyevsai.config import TrainConfig
from eyevsai.core.errors import UserError
from eyevsai.core.process_tree import find_parent
from eyevsai.training.settings import TrainingSettings

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]
    from torch.distributed.distributed_c10d import Store

    from eyevsai.data.dataset import Dataset
    from eyevsai.models.learner import Learner

# keys in the rendezvous store; READY and FAILURE are followed by "/" and the rank
CONFIG, READY, FAILURE = ("config", "ready", "failure")
LAUNCHER = "EYEVSAI_LAUNCHER"  # environment variable with the process id of rank 0
POLL_S = 0.05
RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
HAS_LIBUV = sys.platform != "win32"  # torch for Windows is built without it


@dataclass(frozen=True)
class RankInfo:
    """Rank of a process, and the address of the rendezvous store."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int
    hosts_store: bool  # True for rank 0, unless torchrun's agent hosts the store
    attempt: str = "0"  # restart count of torchrun; separates the keys of attempts
    launcher: int | None = None  # process id of rank 0 if it started this process

    def environment(self) -> dict[str, str]:
        """Return the environment variables that `rank_from_env` reads."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
            LAUNCHER: str(self.launcher or ""),
        }

    @property
    def is_orphaned(self) -> bool:
        """True if rank 0 started this process and has exited since."""
        if self.launcher is None:
            return False
        import psutil

        try:
            return find_parent().pid != self.launcher
        except psutil.NoSuchProcess:
            return True

    def open_tcp_store(self) -> TCPStore:
        """Return the server of the rendezvous store if this rank hosts it, else a client.

        torch's server listens on all network interfaces. If all ranks are on this machine, the
        server gets a socket on `address` with a free port instead, and ignores `port`.
        """
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        if not (self.hosts_store and self.launcher):
            return TCPStore(
                self.address,
                self.port,
                is_master=self.hosts_store,
                wait_for_workers=False,
                timeout=RENDEZVOUS_TIMEOUT,
                use_libuv=HAS_LIBUV,
                multi_tenant=True,
            )
        with socket.create_server((self.address, 0)) as listener:
            return TCPStore(
                self.address,
                listener.getsockname()[1],
                is_master=True,
                wait_for_workers=False,
                timeout=RENDEZVOUS_TIMEOUT,
                use_libuv=HAS_LIBUV,
                master_listen_fd=listener.detach(),
            )

    def open_store(self) -> Store:
        """Return the key-value store shared by all ranks of this attempt."""
        from torch.distributed.distributed_c10d import PrefixStore

        return PrefixStore(self.attempt, self.open_tcp_store())

    def join(self, config: TrainConfig, store: Store, explain: Callable[[Exception], str]) -> None:
        """Set the device or threads of this process and join the process group.

        Args:
            config: settings of the run.
            store: rendezvous store.
            explain: returns the reason of a lost connection for the error of torch.
        """
        from torch.distributed.distributed_c10d import PrefixStore

        from eyevsai.training.device import set_local_device
        from eyevsai.training.process_group import ProcessGroup, join_group

        assert isinstance(config.model.settings, TrainingSettings)
        # torchrun has divided the cores already: it sets OMP_NUM_THREADS for each process
        has_own_cores = self.launcher is None and "OMP_NUM_THREADS" in os.environ
        set_local_device(
            self.local_rank, 1 if has_own_cores else self.local_world_size, config.model.settings
        )
        join_group(ProcessGroup(self.rank, self.world_size, PrefixStore("group", store), explain))


def rank_from_env() -> RankInfo | None:
    """Return the rank info in the environment variables of torchrun.

    Returns None if they are missing or invalid, or if the world size is 1.
    """
    env = os.environ
    try:
        rank, size = int(env["RANK"]), int(env["WORLD_SIZE"])
        address, port = env["MASTER_ADDR"], int(env["MASTER_PORT"])
    except (KeyError, ValueError):
        return None
    if size == 1:
        return None
    hosts_store = rank == 0 and env.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return RankInfo(
        rank,
        size,
        int(env.get("LOCAL_RANK", rank)),
        int(env.get("LOCAL_WORLD_SIZE", size)),
        address,
        port,
        hosts_store,
        env.get("TORCHELASTIC_RESTART_COUNT", "0"),
        int(env.get(LAUNCHER) or 0) or None,
    )


def set_world_size(config: TrainConfig, rank: RankInfo | None) -> TrainConfig:
    """Return `config` with `devices` set to the world size of torchrun; unchanged without `rank`.

    Raises:
        UserError: `devices` is set to another number, or the model is not a network.
    """
    if rank is None:
        return config
    settings = config.model.settings
    if not isinstance(settings, TrainingSettings):
        raise UserError(
            f"{config.model.family} is not a network and trains in one process. Start it without "
            "torchrun."
        )
    if settings.devices not in (1, rank.world_size):
        raise UserError(
            f"--devices is {settings.devices}, but torchrun started {rank.world_size} processes. "
            f"Omit --devices, or start {settings.devices}."
        )
    return replace(
        config, model=replace(config.model, settings=replace(settings, devices=rank.world_size))
    )


def digest_fingerprint(dataset: Dataset, learner: Learner) -> dict[str, str]:
    """Return the SHA-256 of each input that must be equal on all ranks, besides the settings.

    These are the parts of `describe_fingerprint`, and the initial weights as `weights`.
    """
    import torch

    from eyevsai.workflows.train.fingerprint import describe_fingerprint

    fingerprint = describe_fingerprint(dataset, learner.preprocessing)
    digests = {
        kind: json.dumps(values, sort_keys=True).encode() for kind, values in fingerprint.items()
    }
    weights = hashlib.sha256()
    for name, tensor in learner.tensors().items():
        weights.update(name.encode())
        weights.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return {kind: hashlib.sha256(text).hexdigest() for kind, text in digests.items()} | {
        "weights": weights.hexdigest()
    }


def compare_fingerprints(expected: Mapping[str, str], actual: Mapping[str, str]) -> None:
    """Raise UserError if the digests of a rank (`actual`) differ from those of rank 0."""
    kinds = [kind for kind, digest in actual.items() if expected.get(kind) != digest]
    if kinds:
        raise UserError(
            f"Mismatch with rank 0 in {' and '.join(kinds)}. Use the same on all machines."
        )
