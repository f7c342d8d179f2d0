"""Which of the processes of a run this one is, and where they meet before they are a group.

All variables but one are torchrun's, whether torchrun set them or rank 0, which starts the others
of one machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore, Store

from eyevsai.config import TrainConfig
from eyevsai.core.errors import UserError
from eyevsai.data.dataset import Dataset
from eyevsai.models.learner import Learner
from eyevsai.training.device import set_local_device
from eyevsai.training.process_group import ProcessGroup, join_group
from eyevsai.training.settings import TrainingSettings
from eyevsai.workflows.train.fingerprint import describe_fingerprint

# what ranks leave at the store; the last two with their number
CONFIG, READY, FAILURE = ("config", "ready", "failure")
LAUNCHER = "EYEVSAI_LAUNCHER"
POLL_S = 0.05
RENDEZVOUS_TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True)
class RankInfo:
    """A process among those of a run."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    address: str
    port: int
    hosts_store: bool  # rank 0 does, unless torchrun's agent has a store already
    attempt: str = "0"
    launcher: int | None = None  # the process of rank 0, where it started this one

    def environment(self) -> dict[str, str]:
        """The environment that says so."""
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
        """Whether the process that started this one has ended since."""
        return self.launcher not in (None, os.getppid())

    def open_tcp_store(self) -> TCPStore:
        """The server or client of the store; that of rank 0 finds itself a port if it was given 0.

        torch's server listens to every network. Where all ranks are on this machine it is given a
        socket of this machine's own instead.
        """
        if not (self.hosts_store and self.launcher):
            return TCPStore(
                self.address,
                self.port,
                is_master=self.hosts_store,
                wait_for_workers=False,
                timeout=RENDEZVOUS_TIMEOUT,
                multi_tenant=True,
            )
        with socket.create_server((self.address, 0)) as listening:
            return TCPStore(
                self.address,
                listening.getsockname()[1],
                is_master=True,
                wait_for_workers=False,
                timeout=RENDEZVOUS_TIMEOUT,
                master_listen_fd=listening.detach(),
            )

    def open_store(self) -> Store:
        """Where ranks leave what others are to know."""
        return PrefixStore(self.attempt, self.open_tcp_store())

    def join(self, config: TrainConfig, store: Store, explain: Callable[[Exception], str]) -> None:
        """Takes this process's share of the machine and joins the group."""
        assert isinstance(config.model.settings, TrainingSettings)
        # as torchrun means it
        each_has_own = self.launcher is None and "OMP_NUM_THREADS" in os.environ
        set_local_device(
            self.local_rank, 1 if each_has_own else self.local_world_size, config.model.settings
        )
        join_group(ProcessGroup(self.rank, self.world_size, PrefixStore("group", store), explain))


def rank_from_env() -> RankInfo | None:
    """Return the rank that torchrun set in the environment; None if this process is alone."""
    given = os.environ
    try:
        rank, size = int(given["RANK"]), int(given["WORLD_SIZE"])
        address, port = given["MASTER_ADDR"], int(given["MASTER_PORT"])
    except (KeyError, ValueError):
        return None
    if size == 1:
        return None
    keeps_store = rank == 0 and given.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return RankInfo(
        rank,
        size,
        int(given.get("LOCAL_RANK", rank)),
        int(given.get("LOCAL_WORLD_SIZE", size)),
        address,
        port,
        keeps_store,
        given.get("TORCHELASTIC_RESTART_COUNT", "0"),
        int(given.get(LAUNCHER) or 0) or None,
    )


def set_world_size(config: TrainConfig, rank: RankInfo | None) -> TrainConfig:
    """The configuration of as many devices as torchrun started processes.

    Raises:
        UserError: another number was asked for, or the model is none that several can train.
    """
    if rank is None:
        return config
    settings = config.model.settings
    if not isinstance(settings, TrainingSettings):
        raise UserError(
            f"{config.model.family} is no network, and one process fits it: start it without "
            "torchrun."
        )
    if settings.devices not in (1, rank.world_size):
        raise UserError(
            f"--devices {settings.devices}, but torchrun started {rank.world_size} processes. "
            "Leave --devices out, or start as many."
        )
    return replace(
        config, model=replace(config.model, settings=replace(settings, devices=rank.world_size))
    )


def digest_fingerprint(dataset: Dataset, learner: Learner) -> dict[str, str]:
    """SHA-256 of each thing that has to be the same for all ranks before the first step, besides
    the settings.
    """
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


def compare_fingerprints(wanted: Mapping[str, str], own: Mapping[str, str]) -> None:
    """Raises UserError where a rank has something else than rank 0 wants."""
    other = [kind for kind, digest in own.items() if wanted.get(kind) != digest]
    if other:
        raise UserError(f"other {' and '.join(other)} than rank 0. Bring all machines to the same.")
