"""Duplicates of an indexed dataset, and the groups of images that stay in one split."""

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
    candidates,
    find_duplicates,
    make_thumbnail,
)
from eyevsai.data.image_checks import ImageInfo
from eyevsai.data.image_folder import ImageFile


def find_duplicate_groups(
    good: Sequence[tuple[ImageFile, ImageInfo]], depth: Depth, cache_dir: Path, mode: str
) -> DuplicateGroups:
    """Find duplicates among files that decode; the result for an equal dataset is read from the
    cache.

    Args:
        good: files with their records.
        depth: the range of images with more than 8 bits.
        cache_dir: where results are kept.
        mode: `near`, `exact` or `off`: see `find_duplicates`.
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
    places = candidates(records) if mode == "near" else []
    thumbnails = dict(
        zip(places, _thumbnails([good[place][0] for place in places], depth), strict=True)
    )
    found = find_duplicates(records, labels, thumbnails.__getitem__, mode)
    if thumbnails:  # else there is nothing that it took long to find
        with suppress(OSError):  # they are found again next time
            write_atomically(path, json.dumps(asdict(found)))
    return found


def _thumbnails(files: Sequence[ImageFile], depth: Depth) -> list[Any]:
    if not files:
        return []
    # imports torch, which a second look does without
    from eyevsai.data.parallel import parallel_map

    return [
        each
        for chunk in parallel_map(_Thumbnails(depth), files, "Comparing images")
        for each in chunk
    ]


@dataclass(frozen=True)
class _Thumbnails:
    """Makes thumbnails, in a worker."""

    depth: Depth

    def __call__(self, files: Sequence[ImageFile]) -> list[Any]:
        return [make_thumbnail(decode(file.path, self.depth)) for file in files]


def join_groups(files: Sequence[ImageFile], copies: Sequence[int]) -> list[int]:
    """Return the group of each file: copies and files of one `ImageFile.group` are together,
    transitively.

    Args:
        files: of all parts of a dataset; groups of two parts are kept apart.
        copies: for each file the place of the first one that shows the same.
    """
    if all(file.group is None for file in files):
        return list(copies)
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    first: dict[tuple[str, str], int] = {}
    ends = list(copies)
    for place, file in enumerate(files):
        ends.append(
            place
            if file.group is None
            else first.setdefault((file.name.partition("/")[0], file.group), place)
        )
    places = np.tile(np.arange(len(files)), 2)
    links = coo_array(
        (np.ones(len(ends), np.int8), (places, np.array(ends))), (len(files), len(files))
    )
    _, labels = connected_components(links, directed=False)
    return [int(label) for label in labels]
