"""What every job that makes runs begins with: a store in order, and in each run what it learns from."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from eyevsai.config import TrainConfig
from eyevsai.data.dataset import Dataset
from eyevsai.store import open_store

if TYPE_CHECKING:
    from eyevsai.tracking.run import Run


def open_swept_store(config: TrainConfig) -> str:
    """The store's URI, after what ended runs of this machine left unsaid was said."""
    tracking_uri = open_store()
    from eyevsai.registry.versions import CARRIERS
    from eyevsai.tracking.sweep import sweep

    sweep(tracking_uri, Path(config.run.state_root).expanduser(), CARRIERS)
    return tracking_uri


def log_input(run: Run, dataset: Dataset) -> None:
    """Says in MLflow what a run learns from."""
    counts = Counter(dataset.split_names)
    profile = {"classes": len(dataset.classes), **{name: counts[name] for name in ("train", "valid", "test")}}
    folders = [str(folder) for folder in dataset.found.source.parts.values()]
    run.dataset(dataset.name, dataset.fingerprint, folders, profile)
