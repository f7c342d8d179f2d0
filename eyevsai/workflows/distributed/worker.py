"""The ranks of a run besides rank 0: they compute, and have no store, no run and no files."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import distributed
from torch.distributed.distributed_c10d import Store

from eyevsai.config import TrainConfig, compose_train
from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import UserError
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.models.learner import Learner
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.device import check_devices, find_device
from eyevsai.training.process_group import WorkerLostError, leave_group
from eyevsai.training.settings import TrainingSettings
from eyevsai.workflows.distributed.rank import (
    CONFIG,
    FAILURE,
    POLL_S,
    READY,
    RankInfo,
    compare_fingerprints,
    digest_fingerprint,
)
from eyevsai.workflows.shutdown import ending_with_parent, handling_signals
from eyevsai.workflows.train.setup import build_learner_and_data


def run_worker(config: TrainConfig, rank: RankInfo) -> None:
    """Computes this rank's share of the run that rank 0 has.

    Raises:
        SystemExit: the run ended before its time; rank 0 is told why and says so.
    """
    # rank 0 tells all that there is to tell
    logging.getLogger("eyevsai").setLevel(logging.CRITICAL)
    with handling_signals() as stop, ending_with_parent(_exit_at_once):
        if rank.is_orphaned:  # while this process was importing
            _exit_at_once()
        try:
            store = rank.open_store()
            try:
                _run_worker(config, rank, store, stop)
            except WorkerLostError:
                raise
            except UserError as error:
                words = f"On {platform.node()}, rank {rank.rank}: {error}"
                store.set(f"{FAILURE}/{rank.rank}", words)
                store.set(f"{READY}/{rank.rank}", words)
                raise SystemExit(error.exit_code) from None
        except (WorkerLostError, distributed.DistError):  # rank 0 is gone, or knows who is
            raise SystemExit(WorkerLostError.exit_code) from None
        finally:
            with suppress(RuntimeError):
                leave_group()


def _exit_at_once() -> None:
    # there is nothing to save, and the main thread may wait for what does not come
    os._exit(WorkerLostError.exit_code)


def _run_worker(config: TrainConfig, rank: RankInfo, store: Store, stop: CancellationToken) -> None:
    while not store.check([CONFIG]):
        time.sleep(POLL_S)
    said = json.loads(store.get(CONFIG))
    composed = _use_settings(said["config"], config)
    learner, data = _prepare(composed, rank)
    compare_fingerprints(said["fingerprint"], digest_fingerprint(data.dataset, learner))
    store.set(f"{READY}/{rank.rank}", "")
    rank.join(composed, store, lambda error: f"Rank 0 or another one is gone: {error}")
    learner.fit(data.train, data.valid, _ignore_epoch, Checkpoints(stop=stop))


def _use_settings(flat: dict[str, Any], own: TrainConfig) -> TrainConfig:
    """Rank 0's configuration, with the places where this machine keeps its data."""
    composed = compose_train({name: value for name, value in flat.items() if value is not None})
    data = replace(
        composed.data,
        data_dir=own.data.data_dir,
        cache_dir=own.data.cache_dir,
        data=own.data.data or composed.data.data,
    )
    return replace(composed, data=data)


def _prepare(config: TrainConfig, rank: RankInfo) -> tuple[Learner, Data]:
    model = config.model
    assert isinstance(model.settings, TrainingSettings)
    check_devices(rank.local_world_size, find_device(model.settings.device))
    return build_learner_and_data(config, load_dataset(config.data))


def _ignore_epoch(epoch: int, row: dict[str, float]) -> None:
    """What rank 0 logs of an epoch is logged once."""
    del epoch, row
