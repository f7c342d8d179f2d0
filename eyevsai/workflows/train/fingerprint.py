"""Fingerprint of a run: data, preprocessing, code and packages that a resumed run must match."""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from typing import Any

from eyevsai.config import TrainConfig
from eyevsai.core.errors import UserError
from eyevsai.core.fingerprint import describe_change, hash_code
from eyevsai.core.version import VERSION
from eyevsai.data.dataset import Dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.store.run_dir import CONFIG, FINGERPRINT, REQUESTED_CONFIG, RunDir

log = logging.getLogger("eyevsai")

PARTS = {
    "data": "images",
    "preprocessing": "values",
    "code": "files of eyevsai",
    "packages": "packages",
}


def save_fingerprint(
    config: TrainConfig, dataset: Dataset, preprocessing: Preprocessing, folder: RunDir
) -> None:
    """Keeps what a resumed run is held against: settings, data, their preprocessing, and code."""
    folder.write(CONFIG, plain_values(config))
    folder.write(REQUESTED_CONFIG, plain_values(config.untuned or config))
    folder.write(FINGERPRINT, describe_fingerprint(dataset, preprocessing))


def verify_fingerprint(
    dataset: Dataset, preprocessing: Preprocessing, folder: RunDir, *, force: bool
) -> None:
    """Raises UserError when data, preprocessing or code are not those that the run began with,
    unless `force`.
    """
    before = folder.read(FINGERPRINT) or {}
    for kind, now in describe_fingerprint(dataset, preprocessing).items():
        change = describe_change(before.get(kind, {}), now)
        if not change:
            continue
        if not force:
            raise UserError(
                f"Run {folder.run_id} began with other {kind}; {PARTS[kind]}: {change}. "
                "Bring them back, start a new run, or add --resume-force true."
            )
        log.warning("Going on although the %s changed: %s.", kind, change)


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


def plain_values(config: TrainConfig) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    values: dict[str, Any] = json.loads(json.dumps(config.flat()))
    return values
