"""Duplicates of a dataset: equal pixels, or the same picture resized or recompressed.

A perceptual hash proposes pairs (locality-sensitive hashing, Indyk & Motwani 1998); thumbnails in
colour confirm them. Images that resemble many others are frames, icons or glyphs of one kind, not
copies.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyevsai.data.image_checks import ImageInfo

VERSION = 1  # goes into the key of remembered results: raise it when any group changes
BITS = 256
# differing bits of 256; measured: 99 % of copies differ in 24 or fewer, half in 6 or fewer
MAX_DISTANCE = 24
BANDS = 16  # a pair that agrees on all 16 bits of any band is compared in full
# images in a group of near-duplicates; more that resemble each other are a sequence
MAX_COPIES = 24

SIDE = 64  # px, of a thumbnail
CELL = 8  # px, of the cells in which thumbnails are compared
# Measured on the copies of `duplicates` in benchmarks/data.py: 99 % stay below 0.15, 15.5 levels
# and 0.035 px. The closest rendered characters differ by 27 levels in a cell, frames of a pan by
# 0.3 px.
MAX_RESIDUAL = 0.2  # RMS difference after matching brightness, as a share of the contrast
MAX_CELL_RESIDUAL = 17.0  # RMS difference in the worst cell, in levels of 255
MAX_MOTION_PX = 0.1
MAX_GAIN = 2.0  # ratio of the contrasts
GAP = 3.0  # images that differ by up to this multiple of the limits lie between copies and others
CHUNK = 256  # pairs compared at a time

Signatures = npt.NDArray[np.uint8]  # N,32: 256 bits each
Thumbnail = npt.NDArray[np.uint8]  # SIDE,SIDE,3
Thumbnails = npt.NDArray[np.uint8]  # N,SIDE,SIDE,C
Pixels = npt.NDArray[np.float32]  # N,SIDE,SIDE,C
# pixels of mean 0 and deviation 1, and N contrasts in levels
Normalised = tuple[Pixels, npt.NDArray[np.float32]]
Matrix = npt.NDArray[np.bool_]  # N,N
Pairs = npt.NDArray[np.intp]  # P,2


@dataclass(frozen=True)
class DuplicateGroups:
    """Duplicates among records, all by their places in the records.

    Attributes:
        groups: for each record the place of the first member of its group; most groups have one.
        conflicts: near-duplicates of different classes, which are not grouped.
        sequences: sets of more than MAX_COPIES similar images, of any class; only equal pixels are
            grouped in these.
    """

    groups: list[int]
    conflicts: list[tuple[int, int]]
    sequences: list[list[int]]


def make_thumbnail(picture: npt.NDArray[np.uint8]) -> Thumbnail:
    """Reduce a picture, H,W,3 uint8, to SIDE,SIDE,3 uint8 with an antialiased filter."""
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def candidates(records: Sequence[ImageInfo]) -> list[int]:
    """Return the places whose thumbnails `find_duplicates` needs; of equal pixels only the
    first.
    """
    distinct, pairs = _propose_pairs(records)
    return sorted(distinct[node] for node in np.unique(pairs))


def find_duplicates(
    records: Sequence[ImageInfo],
    labels: Sequence[str],
    thumbnail: Callable[[int], Thumbnail],
    mode: str = "near",
) -> DuplicateGroups:
    """Group duplicates: equal pixels of any class, and near-duplicates of one class.

    Args:
        records: audited images that decode.
        labels: the class of each record.
        thumbnail: returns what `make_thumbnail` makes of a record's picture; called once for each
            of `candidates`.
        mode: "off" groups nothing, "exact" equal pixels only, "near" also resized and recompressed
            copies.

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in ("off", "exact", "near"):
        raise ValueError(f"Unknown duplicates mode {mode!r}. Use off, exact or near.")
    if mode == "off":
        return DuplicateGroups(list(range(len(records))), [], [])
    groups = _group_equal(records)
    if mode == "exact":
        return DuplicateGroups(groups, [], [])
    distinct, pairs = _propose_pairs(records)
    if not len(pairs):
        return DuplicateGroups(groups, [], [])
    nodes, ends = np.unique(pairs, return_inverse=True)
    places = [distinct[node] for node in nodes]
    thumbnails = np.stack([thumbnail(place) for place in places])
    sets = [
        [places[node] for node in members] for members in _link(thumbnails, ends.reshape(-1, 2))
    ]
    index = {place: node for node, place in enumerate(places)}
    classes = _first_of_each_class(groups, labels)
    conflicts: list[tuple[int, int]] = []
    for members in (members for members in sets if 1 < len(members) <= MAX_COPIES):
        near = _confirm_pairs(thumbnails[[index[place] for place in members]])
        conflicts += _split_classes([classes[place] for place in members], near)
        _merge(groups, members, near)
    sequences = [_add_equal(groups, members) for members in sets if len(members) > MAX_COPIES]
    return DuplicateGroups([groups[first] for first in groups], sorted(conflicts), sequences)


def _group_equal(records: Sequence[ImageInfo]) -> list[int]:
    first: dict[str, int] = {}
    return [first.setdefault(record.pixels, place) for place, record in enumerate(records)]


def _first_of_each_class(groups: Sequence[int], labels: Sequence[str]) -> dict[int, dict[str, int]]:
    """Return for each group of equal pixels its classes, each with the place of its first image."""
    classes: dict[int, dict[str, int]] = {}
    for place, (first, label) in enumerate(zip(groups, labels, strict=True)):
        classes.setdefault(first, {}).setdefault(label, place)
    return classes


def _add_equal(groups: Sequence[int], members: Sequence[int]) -> list[int]:
    chosen = set(members)
    return [place for place, first in enumerate(groups) if first in chosen]


def _propose_pairs(records: Sequence[ImageInfo]) -> tuple[list[int], Pairs]:
    """Return the places of hashed images that differ in pixels, and the pairs among these that may
    be copies.
    """
    firsts = dict.fromkeys(_group_equal(records))
    distinct = [place for place in firsts if records[place].signature]
    if len(distinct) < 2:
        return distinct, np.empty((0, 2), np.intp)
    signatures = np.frombuffer(
        bytes.fromhex("".join(records[place].signature for place in distinct)), np.uint8
    )
    return distinct, _pair_up(signatures.reshape(len(distinct), -1))


def _pair_up(signatures: Signatures) -> Pairs:
    """Return the pairs within MAX_DISTANCE, of each image at most the MAX_COPIES nearest on either
    side.

    Each band orders the images by its bits and those that follow, and an image is compared with the
    next
    MAX_COPIES: in a sequence, whose frames agree on whole bands, time stays linear too.
    """
    bands = _cut_bands(signatures).astype(np.uint64)
    found = []
    for band in range(BANDS):
        key = np.zeros(len(bands), np.uint64)
        for following in range(4):
            key = key << np.uint64(16) | bands[:, (band + following) % BANDS]
        order = np.argsort(key, kind="stable")
        value, block = bands[order, band], signatures[order]
        for step in range(1, min(MAX_COPIES, len(order) - 1) + 1):
            same = np.flatnonzero(value[step:] == value[:-step])
            if not len(same):
                break
            distance = np.bitwise_count(block[same] ^ block[same + step]).sum(axis=1, dtype=np.intp)
            near = same[distance <= MAX_DISTANCE]
            found.append(np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1))
    return _keep_nearest(
        np.unique(np.concatenate(found or [np.empty((0, 2), np.intp)]), axis=0), signatures
    )


def _keep_nearest(pairs: Pairs, signatures: Signatures) -> Pairs:
    if not len(pairs):
        return pairs
    distance = np.bitwise_count(signatures[pairs[:, 0]] ^ signatures[pairs[:, 1]]).sum(
        axis=1, dtype=np.intp
    )
    kept = np.zeros(len(pairs), bool)
    for side in (0, 1):
        order = np.lexsort((distance, pairs[:, side]))
        ends = pairs[order, side]
        kept[order] |= np.arange(len(ends)) - np.searchsorted(ends, ends) < MAX_COPIES
    return pairs[kept]


def _cut_bands(signatures: Signatures) -> npt.NDArray[np.int32]:
    # Neighbouring bits of the hash are neighbouring frequencies, which move together: mixing them
    # makes the bands independent of each other.
    order = np.random.default_rng(0).permutation(BITS)
    bits = np.unpackbits(signatures, axis=1)[:, order]
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint16).astype(np.int32)  # N,16


def _link(thumbnails: Thumbnails, pairs: Pairs) -> list[list[int]]:
    """Join what is alike in grey within GAP times the limits of copies, transitively; return the
    sets of places.

    Pairs that are joined already are not compared, so that a sequence costs little more than a
    comparison per image; for this they come in random order.
    """
    parent = list(range(len(thumbnails)))
    grey = thumbnails.mean(axis=3, keepdims=True, dtype=np.float32).astype(np.uint8)
    shuffled = np.random.default_rng(0).permutation(pairs)
    for start in range(0, len(pairs), CHUNK):
        some = shuffled[start : start + CHUNK]
        roots = np.array([_root(parent, node) for node in some.ravel().tolist()]).reshape(-1, 2)
        some = some[roots[:, 0] != roots[:, 1]]
        for one, other in some[
            _are_near_duplicates(_normalise(grey[some[:, 0]]), _normalise(grey[some[:, 1]]), GAP)
        ].tolist():
            _join(parent, one, other)
    members: dict[int, list[int]] = {}
    for node in range(len(parent)):
        members.setdefault(_root(parent, node), []).append(node)
    return list(members.values())


def _confirm_pairs(thumbnails: Thumbnails) -> Matrix:
    """Return which images are copies of each other, compared in colour: N,N bool."""
    pixels, contrast = _normalise(thumbnails)
    near = np.zeros((len(pixels), len(pixels)), bool)
    one, other = np.triu_indices(len(pixels), k=1)
    alike = _are_near_duplicates(
        (pixels[one], contrast[one]), (pixels[other], contrast[other]), 1.0
    )
    one, other = one[alike], other[alike]
    near[one, other] = _measure_motion(pixels[one], pixels[other]) <= MAX_MOTION_PX
    return near | near.T


def _normalise(thumbnails: Thumbnails) -> Normalised:
    """Match brightness and contrast, with one gain and one offset for all pixels and channels of an
    image.
    """
    pixels = thumbnails.astype(np.float32)
    pixels -= pixels.mean(axis=(1, 2, 3), keepdims=True)
    contrast = np.asarray(np.sqrt(np.square(pixels).mean(axis=(1, 2, 3))), np.float32)
    pixels /= np.maximum(contrast, 1e-3)[:, None, None, None]
    return pixels, contrast


def _are_near_duplicates(one: Normalised, other: Normalised, slack: float) -> npt.NDArray[np.bool_]:
    """Return which of P pairs agree within `slack` times the limits of the residual, overall and in
    each cell.
    """
    (x, x_contrast), (y, y_contrast) = one, other
    num_cells = SIDE // CELL
    squares = (
        np.square(x - y)
        .reshape(len(x), num_cells, CELL, num_cells, CELL * x.shape[3])
        .sum(axis=(2, 4))
    )
    squares = squares.reshape(len(x), num_cells**2) / (CELL**2 * x.shape[3])
    contrast = np.sqrt(x_contrast * y_contrast)
    alike = np.sqrt(squares.mean(axis=1)) <= slack * MAX_RESIDUAL
    alike &= np.sqrt(squares.max(axis=1)) * contrast <= slack * MAX_CELL_RESIDUAL
    is_gain_small = np.maximum(x_contrast, y_contrast) <= MAX_GAIN * np.minimum(
        x_contrast, y_contrast
    )
    return np.asarray(alike & is_gain_small, bool)


def _measure_motion(one: Pixels, other: Pixels) -> npt.NDArray[np.float64]:
    """Return how far the content of each of P pairs moved, in px of the thumbnail: RMS over the
    picture.

    The residual is explained by shift, zoom and rotation, to the first order (Lucas & Kanade 1981).
    """
    mean, change = (one + other) / 2, (one - other)[:, 1:-1, 1:-1]
    across = (mean[:, 1:-1, 2:] - mean[:, 1:-1, :-2]) / 2
    down = (mean[:, 2:, 1:-1] - mean[:, :-2, 1:-1]) / 2
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, SIDE - 2, dtype=np.float32)], indexing="ij")
    # so that zoom and rotation move 1 px
    y, x = (axis[..., None] * np.float32(math.sqrt(1.5)) for axis in (y, x))
    slopes = np.stack([across, down, x * across + y * down, x * down - y * across], axis=1)
    slopes = slopes.reshape(len(one), 4, math.prod(change.shape[1:]))
    system = slopes @ slopes.swapaxes(1, 2)
    # A direction without slopes, as along stripes, shows no motion: noise must not appear as one.
    system += np.eye(4) * (0.01 * np.trace(system, axis1=1, axis2=2)[:, None, None] + 1e-3)
    motion = np.linalg.solve(system, slopes @ change.reshape(len(one), slopes.shape[2], 1))
    return np.asarray(np.sqrt(np.square(motion).sum(axis=(1, 2))), np.float64)


def _split_classes(classes: Sequence[dict[str, int]], near: Matrix) -> list[tuple[int, int]]:
    """Clear pairs of different classes in `near`, N,N bool; return the places of one image of each
    class.
    """
    conflicts = []
    for one, other in np.argwhere(np.triu(near)).tolist():
        if len(classes[one] | classes[other]) > 1:
            near[one, other] = near[other, one] = False
            differing = (
                (p, q) for a, p in classes[one].items() for b, q in classes[other].items() if a != b
            )
            first, second = sorted(next(differing))
            conflicts.append((first, second))
    return conflicts


def _merge(groups: list[int], members: Sequence[int], near: Matrix) -> None:
    """Group each image with the representative that has most copies, if it is a copy of all in its
    group.
    """
    free = np.ones(len(members), bool)
    while (degree := (near & free).sum(axis=1) * free).any():
        group = [int(degree.argmax())]
        for node in np.flatnonzero(near[group[0]] & free).tolist():
            if near[node, group].all():
                group.append(node)
        free[group] = False
        first = min(members[node] for node in group)
        for node in group:
            groups[members[node]] = first


def _root(parent: list[int], place: int) -> int:
    while parent[place] != place:
        parent[place] = parent[parent[place]]
        place = parent[place]
    return place


def _join(parent: list[int], one: int, other: int) -> None:
    one, other = sorted((_root(parent, one), _root(parent, other)))
    parent[other] = one
