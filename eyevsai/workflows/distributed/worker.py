"""Worker of distributed training, a rank above 0.

Workers only compute: they have no tracking store, no run and no files.
"""

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

from eyevsai.config import TrainConfig, compose_train, explicit_settings
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
    """Train as a rank above 0 in the run of rank 0.

    Args:
        config: settings of this process, of which only the data folders are used; all others are
            those of rank 0.
        rank: rank info of this process.

    Raises:
        SystemExit: the run failed. A UserError of this rank is reported to rank 0 first.
    """
    logging.getLogger("eyevsai").setLevel(logging.CRITICAL)  # rank 0 logs for all ranks
    with handling_signals() as stop, ending_with_parent(_exit_at_once):
        if rank.is_orphaned:  # rank 0 exited before `ending_with_parent` could watch it
            _exit_at_once()
        try:
            store = rank.open_store()
            try:
                _run_worker(config, rank, store, stop)
            except WorkerLostError:
                raise
            except UserError as error:
                reason = f"On {platform.node()}, rank {rank.rank}: {error}"
                store.set(f"{FAILURE}/{rank.rank}", reason)
                store.set(f"{READY}/{rank.rank}", reason)
                raise SystemExit(error.exit_code) from None
        except (WorkerLostError, distributed.DistError):  # rank 0 exited, or reports the reason
            raise SystemExit(WorkerLostError.exit_code) from None
        finally:
            with suppress(RuntimeError):
                leave_group()


def _exit_at_once() -> None:
    # a worker has nothing to save, and its main thread may block in a collective operation
    os._exit(WorkerLostError.exit_code)


def _run_worker(config: TrainConfig, rank: RankInfo, store: Store, stop: CancellationToken) -> None:
    """Wait for the configuration of rank 0, load the data, join the process group and train."""
    while not store.check([CONFIG]):
        time.sleep(POLL_S)
    published = json.loads(store.get(CONFIG))
    composed = _compose_config(published["config"], config)
    learner, data = _prepare(composed, rank)
    compare_fingerprints(published["fingerprint"], digest_fingerprint(data.dataset, learner))
    store.set(f"{READY}/{rank.rank}", "")
    rank.join(composed, store, lambda error: f"Lost the connection to another rank: {error}")
    learner.fit(data.train, data.valid, _ignore_epoch, Checkpoints(stop=stop))


def _compose_config(flat: dict[str, Any], local: TrainConfig) -> TrainConfig:
    """Return rank 0's settings (`flat`) with the data folders of this machine (`local`)."""
    composed = compose_train(explicit_settings(flat))
    data = replace(
        composed.data,
        data_dir=local.data.data_dir,
        cache_dir=local.data.cache_dir,
        data=local.data.data or composed.data.data,
    )
    return replace(composed, data=data)


def _prepare(config: TrainConfig, rank: RankInfo) -> tuple[Learner, Data]:
    model = config.model
    assert isinstance(model.settings, TrainingSettings)
    check_devices(rank.local_world_size, find_device(model.settings.device))
    return build_learner_and_data(config, load_dataset(config.data))


def _ignore_epoch(epoch: int, metrics: dict[str, float]) -> None:
    """Discard the metrics of an epoch, which rank 0 logs."""
    del epoch, metrics
