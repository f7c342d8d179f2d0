"""data: what a dataset holds and what is wrong with it; the pixel cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eyevsai.core.errors import write_error
from eyevsai.data.catalog import find_source
from eyevsai.data.curation import CuratedDataset, curate
from eyevsai.data.disk_cache import DiskCache
from eyevsai.data.settings import DataSettings


def check_data(settings: DataSettings, page: Path) -> CuratedDataset:
    """Looks at every file of a dataset and writes what was found as an HTML page.

    Raises:
        UserError: no such dataset, or a page that cannot be written.
    """
    from eyevsai.reports.data_page import render_data_page

    found = _inspect(settings)
    try:
        page.write_text(render_data_page(found), encoding="utf-8")
    except OSError as error:
        raise write_error(page, error, "Choose another --page.") from error
    return found


def describe_data(settings: DataSettings) -> dict[str, Any]:
    """Numbers about a dataset: images by class and format, sizes in pixels and bytes, imbalance."""
    import numpy as np

    found = _inspect(settings)
    counts = list(found.counts.values())
    described: dict[str, Any] = {
        "dataset": found.source.name,
        "images": len(found.samples),
        "classes": found.counts,
    }
    if not found.samples:
        return described
    kinds = [item.record.kind for item in found.samples]
    sides = {
        "width": [i.record.width for i in found.samples],
        "height": [i.record.height for i in found.samples],
    }
    return described | {
        "formats": {kind: kinds.count(kind) for kind in sorted(set(kinds))},
        "bytes": sum(item.file.size_bytes for item in found.samples),
        "imbalance": max(counts) / max(1, min(counts)),
        **{
            f"{name}_px": [int(np.percentile(side, q)) for q in (0, 50, 100)]
            for name, side in sides.items()
        },
    }


def _inspect(settings: DataSettings) -> CuratedDataset:
    cache_dir = Path(settings.cache_dir).expanduser()
    return curate(find_source(settings), cache_dir, settings.duplicates, settings.bit_depth)


def cache_bytes(cache_dir: Path) -> int:
    """How much the caches take."""
    return DiskCache(cache_dir, limit_gb=0.0).size_bytes()


def clear_cache(cache_dir: Path) -> int:
    """Deletes all caches and returns the freed bytes."""
    return DiskCache(cache_dir, limit_gb=0.0).clear()
