"""Resuming an interrupted training run."""

from __future__ import annotations

import logging
from dataclasses import replace

from eyevsai.config import TrainConfig, compose_train, explicit_settings
from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand
from eyevsai.core.settings import as_flag
from eyevsai.models.factory import complete_settings
from eyevsai.store.run_dir import CONFIG, REQUESTED_CONFIG, RunDir, list_run_dirs
from eyevsai.tracking.finished_runs import reason_not_resumable
from eyevsai.workflows.train.fingerprint import plain_values

log = logging.getLogger("eyevsai")

AUTO = "auto"


def find_interrupted(config: TrainConfig, tracking_uri: str) -> RunDir | None:
    """Return the directory of the run to resume; None to start a new run.

    With `--resume ID`, this is the run with that id. With `--resume auto`, it is the latest run on
    this machine that was started with the same settings, has a checkpoint and can be resumed.

    Raises:
        UserError: the run with the given id cannot be resumed, or has no checkpoint here.
    """
    requested, root = config.resume.resume, expand(config.run.state_dir)
    if requested is None:
        return None
    if requested != AUTO:
        run_dir = RunDir(root, _check_run_id(requested))
        if reason := reason_not_resumable(tracking_uri, run_dir):
            raise UserError(reason)
        if run_dir.read(CONFIG) is None or not any(run_dir.checkpoints.glob("*.json")):
            raise UserError(
                f"Cannot resume run {requested}: {run_dir.path} has no checkpoint. Resume it on "
                "the machine that started it, or set --state-dir."
            )
        return run_dir
    for run_dir in list_run_dirs(root):
        is_same = run_dir.read(REQUESTED_CONFIG) == plain_values(config)
        if (
            is_same
            and any(run_dir.checkpoints.glob("*.json"))
            and not reason_not_resumable(tracking_uri, run_dir)
        ):
            return run_dir
    log.info("No interrupted run with these settings on this machine: starting a new one.")
    return None


def restore_config(config: TrainConfig, run_dir: RunDir) -> TrainConfig:
    """Return the settings that a run was started with, for resuming it.

    `state_dir` and the resume settings are those of `config`; `class_change` is set if either has
    it. Logs a warning for each other setting of `config` that differs from both the run's value and
    the default.
    """
    saved = complete_settings(run_dir.read(CONFIG))
    original = compose_train(explicit_settings(saved))
    old, defaults = original.flat(), compose_train({"model": config.model.family}).flat()
    overridable = ("state_dir", "class_change")
    for name, value in config.flat().items():
        if name not in overridable and value != old.get(name) and value != defaults.get(name):
            log.warning(
                "%s %s is not used: a resumed run keeps its settings.", as_flag(name), value
            )
    run = replace(original.run, state_dir=config.run.state_dir)  # contains the checkpoint
    class_change = original.data.class_change or config.data.class_change
    data = replace(original.data, class_change=class_change)
    return replace(original, run=run, data=data, resume=config.resume, call=config.call)


def _check_run_id(run_id: str) -> str:
    """Return `run_id`; raise UserError if it cannot be a run id, such as a path."""
    if not run_id.isalnum():
        raise UserError(f"--resume {run_id!r} is invalid. Use a run id or {AUTO}.")
    return run_id
