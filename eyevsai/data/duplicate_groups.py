"""Cached duplicate search for a dataset, and groups of images that stay in one split."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.data.decode import Depth, decode
from eyevsai.data.disk_cache import SCAN_CACHES
from eyevsai.data.duplicates import (
    VERSION,
    DuplicateGroups,
    find_candidates,
    find_duplicates,
    make_thumbnail,
)
from eyevsai.data.image_checks import ImageInfo
from eyevsai.data.image_folder import ImageFile


def find_duplicate_groups(
    good: Sequence[tuple[ImageFile, ImageInfo]], depth: Depth, cache_dir: Path, mode: str
) -> DuplicateGroups:
    """Find duplicates among files that decode; cached results are reused for an equal dataset.

    Args:
        good: files that decode, with their records.
        depth: white levels of images with more than 8 bits.
        cache_dir: folder in which results are cached; if it cannot be written, the search is
            repeated next time.
        mode: `near`, `exact` or `off`: see `find_duplicates`.

    Returns:
        The duplicates, by index in `good`.
    """
    records, labels = [record for _, record in good], [file.label for file, _ in good]
    lines = (
        f"{record.pixels} {record.signature} {label}\n"
        for record, label in zip(records, labels, strict=True)
    )
    key = hashlib.sha256(
        f"{VERSION} {mode} {depth}\n{''.join(lines)}".encode("utf-8", "surrogateescape")
    ).hexdigest()
    path = cache_dir / SCAN_CACHES / f"duplicates-{key[:24]}.json"
    try:
        return DuplicateGroups(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        pass
    indices = find_candidates(records) if mode == "near" else []
    thumbnails = dict(
        zip(indices, _make_thumbnails([good[index][0] for index in indices], depth), strict=True)
    )
    duplicates = find_duplicates(records, labels, thumbnails.__getitem__, mode)
    if thumbnails:  # without thumbnails the search is fast and not worth caching
        with suppress(OSError):  # without the cache, the search is repeated next time
            write_atomically(path, json.dumps(asdict(duplicates)))
    return duplicates


def _make_thumbnails(files: Sequence[ImageFile], depth: Depth) -> list[Any]:
    if not files:
        return []
    # This module imports torch, which is slow and not needed if all results are cached.
    from eyevsai.data.parallel import parallel_map

    return [
        thumbnail
        for chunk in parallel_map(_ThumbnailWorker(depth), files, "Comparing images")
        for thumbnail in chunk
    ]


@dataclass(frozen=True)
class _ThumbnailWorker:
    """Picklable function for worker processes that makes the thumbnails of some files."""

    depth: Depth

    def __call__(self, files: Sequence[ImageFile]) -> list[Any]:
        return [make_thumbnail(decode(file.path, self.depth)) for file in files]


def join_groups(files: Sequence[ImageFile], copies: Sequence[int]) -> list[int]:
    """Return the group id of each file.

    Duplicates and files with the same `ImageFile.group` are in one group, transitively. Equal
    `ImageFile.group` of different parts of the dataset are different groups.

    `copies` has for each file the index of the first member of its duplicate group; it is returned
    unchanged, as a list, if no file has an `ImageFile.group`.
    """
    if all(file.group is None for file in files):
        return list(copies)
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first: dict[tuple[str, str], int] = {}
    ends = list(copies)
    for index, file in enumerate(files):
        ends.append(
            index
            if file.group is None
            else first.setdefault((file.name.partition("/")[0], file.group), index)
        )
    starts = np.tile(np.arange(len(files)), 2)
    links = coo_array(
        (np.ones(len(ends), np.int8), (starts, np.array(ends))), (len(files), len(files))
    )
    _, labels = connected_components(links, directed=False)
    return [int(label) for label in labels]
