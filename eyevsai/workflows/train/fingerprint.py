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

# what the entries of each part of a fingerprint are called in messages
ENTRY_NOUNS = {
    "data": "images",
    "preprocessing": "values",
    "code": "files of eyevsai",
    "packages": "packages",
}


def save_fingerprint(
    config: TrainConfig, dataset: Dataset, preprocessing: Preprocessing, run_dir: RunDir
) -> None:
    """Write the settings and the fingerprint of a run to its run directory, for resuming it.

    Args:
        config: settings of the run, with those of a study applied and limited by the data.
        dataset: images and labels, with their split.
        preprocessing: preprocessing of the images.
        run_dir: folder to write to. Besides `config`, it gets the requested settings, before
            those of a study were applied, by which `--resume auto` finds the run.
    """
    run_dir.write(CONFIG, plain_values(config))
    run_dir.write(REQUESTED_CONFIG, plain_values(config.requested or config))
    run_dir.write(FINGERPRINT, describe_fingerprint(dataset, preprocessing))


def verify_fingerprint(
    dataset: Dataset, preprocessing: Preprocessing, run_dir: RunDir, *, force: bool
) -> None:
    """Raise unless data, preprocessing, code and packages match the saved fingerprint of a run.

    Args:
        dataset: images and labels, with their split.
        preprocessing: preprocessing of the images.
        run_dir: folder of the run to resume.
        force: log a warning for each difference instead.

    Raises:
        UserError: a part of the fingerprint differs, and `force` is False.
    """
    saved = run_dir.read(FINGERPRINT) or {}
    for kind, current in describe_fingerprint(dataset, preprocessing).items():
        change = describe_change(saved.get(kind, {}), current)
        if not change:
            continue
        if not force:
            raise UserError(
                f"Cannot resume run {run_dir.run_id}: the {kind} changed; {ENTRY_NOUNS[kind]}: "
                f"{change}. Restore the {kind}, start a new run, or use --resume-force true."
            )
        log.warning("Resuming although the %s changed: %s.", kind, change)


def describe_fingerprint(
    dataset: Dataset, preprocessing: Preprocessing
) -> dict[str, dict[str, str]]:
    """Return the inputs of a run besides its settings, as strings by part and entry.

    The parts are the images (split, label and truncated digest), the preprocessing parameters, the
    source files of eyevsai (digests), and the versions of packages.
    """
    parameters = {name: str(value) for name, value in preprocessing.to_json().items()}
    return {
        "data": _describe_images(dataset),
        "preprocessing": parameters,
        "code": hash_code(),
        "packages": _packages(),
    }


def _packages() -> dict[str, str]:
    import torch

    libraries = {name: version(name) for name in ("torchvision", "timm")}
    return {"torch": torch.__version__, **libraries, "eyevsai": VERSION}


def _describe_images(dataset: Dataset) -> dict[str, str]:
    return {
        item.name: f"{split}/{item.label}/{item.record.digest[:16]}"
        for item, split in zip(dataset.samples, dataset.split_names, strict=True)
    }


def plain_values(config: TrainConfig) -> dict[str, Any]:
    """Return the settings after a JSON round trip, so that they compare equal to saved ones."""
    values: dict[str, Any] = json.loads(json.dumps(config.flat()))
    return values
