"""Going on with a run that ended before its time."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eyevsai.config import TrainConfig, compose_train
from eyevsai.core.errors import UserError
from eyevsai.core.hashing import hash_file
from eyevsai.core.version import VERSION
from eyevsai.data.dataset import Dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.store.run_dir import (
    CONFIG,
    FINGERPRINT,
    REQUESTED_CONFIG,
    RunDir,
    describe_change,
    list_run_dirs,
)

log = logging.getLogger("eyevsai")

AUTO = "auto"
PARTS = {
    "data": "images",
    "preprocessing": "values",
    "code": "files of eyevsai",
    "packages": "packages",
}
PACKAGE = Path(__file__).parents[2]


def find_interrupted(config: TrainConfig, tracking_uri: str) -> RunDir | None:
    """The run that `--resume` means; None when nothing is to be resumed.

    Raises:
        UserError: the run that was named cannot be gone on with, and why.
    """
    from eyevsai.tracking.finished_runs import reason_not_resumable

    wanted, root = config.resume.resume, Path(config.run.state_root).expanduser()
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
        same = folder.read(REQUESTED_CONFIG) == _plain_values(config)
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
    used = ("state_root", "class_change")  # as they are given now
    for name, value in config.flat().items():
        if name not in used and value != begun.flat().get(name) and value != fresh.flat().get(name):
            log.warning(
                "--%s %s is not used: a resumed run keeps its settings.",
                name.replace("_", "-"),
                value,
            )
    here = replace(begun.run, state_root=config.run.state_root)  # where the checkpoint was found
    data = replace(begun.data, class_change=begun.data.class_change or config.data.class_change)
    return replace(begun, run=here, data=data, resume=config.resume)


def save_fingerprint(
    config: TrainConfig, dataset: Dataset, preprocessing: Preprocessing, folder: RunDir
) -> None:
    """Keeps what a resumed run is held against: settings, data, their preprocessing, and code."""
    folder.write(CONFIG, _plain_values(config))
    folder.write(REQUESTED_CONFIG, _plain_values(config.untuned or config))
    folder.write(FINGERPRINT, describe_fingerprint(dataset, preprocessing))


def verify_fingerprint(
    dataset: Dataset, preprocessing: Preprocessing, folder: RunDir, *, anyway: bool
) -> None:
    """Raises UserError when data, preprocessing or code are not those that the run began with,
    unless `anyway`.
    """
    before = folder.read(FINGERPRINT) or {}
    for kind, now in describe_fingerprint(dataset, preprocessing).items():
        subject = PARTS[kind]
        change = describe_change(before.get(kind, {}), now)
        if not change:
            continue
        if not anyway:
            raise UserError(
                f"Run {folder.run_id} began with other {kind}; {subject}: {change}. "
                "Bring them back, start a new run, or add --resume-anyway true."
            )
        log.warning("Going on although the %s changed: %s.", kind, change)


def hash_code() -> dict[str, str]:
    """The checksum of each file of the package."""
    return {
        path.relative_to(PACKAGE).as_posix(): hash_file(path)[:16]
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def describe_fingerprint(
    dataset: Dataset, preprocessing: Preprocessing
) -> dict[str, dict[str, str]]:
    """Checksums of all that a run depends on besides its settings: data, their preprocessing, code
    and packages.
    """
    prepared = {name: str(value) for name, value in preprocessing.to_json().items()}
    return {
        "data": _checksums(dataset),
        "preprocessing": prepared,
        "code": hash_code(),
        "packages": _packages(),
    }


def _packages() -> dict[str, str]:
    import torch

    libraries = {name: version(name) for name in ("torchvision", "timm")}
    return {"torch": torch.__version__, **libraries, "eyevsai": VERSION}


def _checksums(dataset: Dataset) -> dict[str, str]:
    return {
        item.name: f"{split}/{item.label}/{item.record.digest[:16]}"
        for item, split in zip(dataset.samples, dataset.split_names, strict=True)
    }


def _plain_values(config: TrainConfig) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    values: dict[str, Any] = json.loads(json.dumps(config.flat()))
    return values


def _plain(run_id: str) -> str:
    if not run_id.isalnum():
        raise UserError(f"--resume takes a run's id or {AUTO}, not {run_id!r}.")
    return run_id
