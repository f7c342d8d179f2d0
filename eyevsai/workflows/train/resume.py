"""Going on with a run that ended before its time."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from eyevsai.config import TrainConfig, compose_train
from eyevsai.core.errors import UserError
from eyevsai.core.settings import as_flag
from eyevsai.store.run_dir import CONFIG, REQUESTED_CONFIG, RunDir, list_run_dirs
from eyevsai.tracking.finished_runs import reason_not_resumable
from eyevsai.workflows.train.fingerprint import plain_values

log = logging.getLogger("eyevsai")

AUTO = "auto"


def find_interrupted(config: TrainConfig, tracking_uri: str) -> RunDir | None:
    """The run that `--resume` means; None when nothing is to be resumed.

    Raises:
        UserError: the run that was named cannot be gone on with, and why.
    """
    wanted, root = config.resume.resume, Path(config.run.state_dir).expanduser()
    if wanted is None:
        return None
    if wanted != AUTO:
        folder = RunDir(root, _plain(wanted))
        if reason := reason_not_resumable(tracking_uri, folder):
            raise UserError(reason)
        if folder.read(CONFIG) is None or not any(folder.checkpoints.glob("*.json")):
            raise UserError(
                f"Run {wanted} has no checkpoint on this machine (looked in {folder.path})."
            )
        return folder
    for folder in list_run_dirs(root):
        same = folder.read(REQUESTED_CONFIG) == plain_values(config)
        if (
            same
            and any(folder.checkpoints.glob("*.json"))
            and not reason_not_resumable(tracking_uri, folder)
        ):
            return folder
    log.info("No interrupted run with these settings on this machine: starting a new one.")
    return None


def restore_config(config: TrainConfig, folder: RunDir) -> TrainConfig:
    """The configuration that the run began with; other values given now are named and not used."""
    saved: dict[str, Any] = folder.read(CONFIG)
    begun = compose_train({name: value for name, value in saved.items() if value is not None})
    fresh = compose_train({"model": config.model.family})
    used = ("state_dir", "class_change")  # as they are given now
    for name, value in config.flat().items():
        if name not in used and value != begun.flat().get(name) and value != fresh.flat().get(name):
            log.warning(
                "%s %s is not used: a resumed run keeps its settings.", as_flag(name), value
            )
    here = replace(begun.run, state_dir=config.run.state_dir)  # where the checkpoint was found
    data = replace(begun.data, class_change=begun.data.class_change or config.data.class_change)
    return replace(begun, run=here, data=data, resume=config.resume)


def _plain(run_id: str) -> str:
    if not run_id.isalnum():
        raise UserError(f"--resume takes a run's id or {AUTO}, not {run_id!r}.")
    return run_id
