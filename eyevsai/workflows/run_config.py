"""Stored settings of a run, for repeating it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.store.backend import open_store, raising_store_errors
from eyevsai.store.run_dir import CONFIG
from eyevsai.store.tags import JOB
from eyevsai.tracking.search import find_run, read_json

# command that can use the settings of a run, by the job of the run
COMMANDS = {"train": "train", "trial": "train", "tune": "tune", "train_all": "train-all"}


def read_run_config(run_id: str, command: str) -> Mapping[str, Any]:
    """Return the settings of a run by name.

    Args:
        run_id: id of the run.
        command: command that uses the settings.

    Raises:
        UserError: the store is unusable, the run does not exist, is one of another command, or has
            no settings.
        JobError: the store failed.
    """
    tracking_uri = open_store()
    with raising_store_errors(tracking_uri, f"Reading the settings of run {run_id}"):
        run = find_run(tracking_uri, run_id)
        _check_job(run_id, run.tags.get(JOB, ""), command)
        values = read_json(tracking_uri, run_id, CONFIG)
    if not isinstance(values, dict):
        raise UserError(
            f"--config run:{run_id}: the run has no {CONFIG}, because it failed before it started, "
            "or an earlier eyevsai started it. Name another run, or write a file of its settings."
        )
    return values


def _check_job(run_id: str, job: str, command: str) -> None:
    """Raise UserError unless a command can use the settings of a run with this job."""
    other = COMMANDS.get(job)
    if other == command:
        return
    kind = f"a run of {job}" if job else "no run of eyevsai"
    fix = f"Use: eyevsai {other} --config run:{run_id}" if other else "Name another run."
    raise UserError(
        f"--config run:{run_id} cannot be used by {command}, because it is {kind}. {fix}"
    )
