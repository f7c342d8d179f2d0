"""Which images show the same: equal pixels, or the same picture resized or recompressed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from eyevsai.data.audit import Record

BITS = 256
MAX_DISTANCE = 24  # differing bits of 256; measured: 99 % of recompressed copies differ in 6 or fewer
BANDS = 16  # a pair that agrees on all 16 bits of any band is compared in full
MAX_BUCKET = 256  # images that agree on a band with more than these say nothing by it

Signatures = npt.NDArray[np.uint8]  # N,32: 256 bits each


def group_duplicates(records: Sequence[Record]) -> list[int]:
    """A group number for each record: the place of the group's first member. Most groups have one.

    Near-duplicates are found by locality-sensitive hashing over bands of their perceptual hashes
    (Indyk & Motwani 1998), so that time grows with the number of images and not with its square.
    """
    parent = list(range(len(records)))
    first: dict[str, int] = {}
    for place, record in enumerate(records):
        _join(parent, first.setdefault(record.pixels, place), place)
    hashed = [place for place, record in enumerate(records) if record.signature]
    if hashed:
        signatures = np.array([list(bytes.fromhex(records[place].signature)) for place in hashed], dtype=np.uint8)
        for one, other in _near_pairs(signatures):
            _join(parent, hashed[one], hashed[other])
    return [_root(parent, place) for place in range(len(records))]


def _near_pairs(signatures: Signatures) -> Iterator[tuple[int, int]]:
    # Neighbouring bits of the hash are neighbouring frequencies, which move together: mixing them
    # makes the bands independent of each other.
    order = np.random.default_rng(0).permutation(BITS)
    bits = np.unpackbits(signatures, axis=1)[:, order]
    bands = np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint16).astype(np.int32)  # N,16
    for band in bands.T:
        ranked = np.argsort(band, kind="stable")
        starts = np.flatnonzero(np.diff(band[ranked], prepend=-1, append=-1))
        for start, end in zip(starts, starts[1:], strict=False):
            if 1 < end - start <= MAX_BUCKET:
                yield from _compare(signatures, ranked[start:end])


def _compare(signatures: Signatures, members: npt.NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    block = signatures[members]
    distance = np.bitwise_count(block[:, None] ^ block[None]).sum(axis=2, dtype=np.int32)
    for one, other in np.argwhere(np.triu(distance <= MAX_DISTANCE, k=1)):
        yield int(members[one]), int(members[other])


def _root(parent: list[int], place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = parent[place]
    return place


def _join(parent: list[int], one: int, other: int) -> None:
    one, other = sorted((_root(parent, one), _root(parent, other)))
    parent[other] = one
