"""Workflows of `data check`, `data stats` and `data cache`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from eyevsai.core.errors import write_error
from eyevsai.core.paths import expand
from eyevsai.data.catalog import find_source
from eyevsai.data.curation import CuratedDataset, curate
from eyevsai.data.disk_cache import DiskCache
from eyevsai.data.settings import DataSettings


def check_data(settings: DataSettings, page: Path) -> CuratedDataset:
    """Check every file of a dataset and write the findings as an HTML page.

    Raises:
        UserError: the dataset does not exist, or the page cannot be written.
    """
    from eyevsai.reports.data_page import render_data_page
    from eyevsai.reports.page import PageOrigin

    dataset = _inspect(settings)
    content = render_data_page(dataset, origin=PageOrigin(datetime.now().astimezone()))
    try:
        page.write_text(content, encoding="utf-8")
    except OSError as error:
        raise write_error(page, error, "Choose another --page.") from error
    return dataset


def describe_data(settings: DataSettings) -> dict[str, Any]:
    """Return statistics of a dataset: images by class and format, sizes, and imbalance.

    `imbalance` is the ratio of the largest to the smallest class; `width_px` and `height_px` are
    minimum, median and maximum. A dataset without images has only its name and counts.

    Raises:
        UserError: the dataset does not exist.
    """
    import numpy as np

    dataset = _inspect(settings)
    counts = list(dataset.counts.values())
    described: dict[str, Any] = {
        "dataset": dataset.source.name,
        "images": len(dataset.samples),
        "classes": dataset.counts,
    }
    if not dataset.samples:
        return described
    formats = [sample.record.kind for sample in dataset.samples]
    sides = {
        "width": [sample.record.width for sample in dataset.samples],
        "height": [sample.record.height for sample in dataset.samples],
    }
    return described | {
        "formats": {name: formats.count(name) for name in sorted(set(formats))},
        "bytes": sum(sample.file.size_bytes for sample in dataset.samples),
        "imbalance": max(counts) / max(1, min(counts)),
        **{
            f"{name}_px": [int(np.percentile(side, q)) for q in (0, 50, 100)]
            for name, side in sides.items()
        },
    }


def _inspect(settings: DataSettings) -> CuratedDataset:
    """Return the checked dataset that the settings select."""
    cache_dir = expand(settings.cache_dir)
    return curate(find_source(settings), cache_dir, settings.duplicates, settings.bit_depth)


def cache_bytes(cache_dir: Path) -> int:
    """Return the size of all caches in bytes."""
    return DiskCache(cache_dir, limit_gb=0.0).size_bytes()


def clear_cache(cache_dir: Path) -> int:
    """Delete all caches and return the freed bytes."""
    return DiskCache(cache_dir, limit_gb=0.0).clear()
