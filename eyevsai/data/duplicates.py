"""Duplicate search: images with equal pixels, and resized or recompressed copies.

A perceptual hash proposes pairs (locality-sensitive hashing, Indyk & Motwani 1998), and colour
thumbnails confirm them. Images that resemble many others are not considered copies but sequences:
video frames, icons or characters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from eyevsai.data.image_checks import ImageInfo

VERSION = 1  # part of the key of cached results: increase it when any result changes
BITS = 256  # of the perceptual hash
# differing bits of the hash; measured: 99 % of copies differ in 24 or fewer, half in 6 or fewer
MAX_DISTANCE = 24
BANDS = 16  # pairs with equal bits (16) in any band are compared in full
# maximum images in a group of near-duplicates; larger sets of similar images are sequences
MAX_COPIES = 24

SIDE = 64  # side of a thumbnail, in px
CELL = 8  # side of the cells in which thumbnails are compared, in px
# Limits from the copies of `duplicates` in benchmarks/data.py, of which 99 % are below 0.15, 15.5
# levels and 0.035 px. The most similar rendered characters differ by 27 levels in a cell, frames of
# a camera pan by 0.3 px.
MAX_RESIDUAL = 0.2  # RMS difference after matching brightness, as a share of the contrast
MAX_CELL_RESIDUAL = 17.0  # RMS difference in the worst cell, in levels of 255
MAX_MOTION_PX = 0.1
MAX_GAIN = 2.0  # ratio of the contrasts
# Images that differ by up to this multiple of the limits are similar: candidates for a sequence.
GAP = 3.0
CHUNK = 256  # pairs compared at a time

Signatures = npt.NDArray[np.uint8]  # N,32: 256 bits each
Thumbnail = npt.NDArray[np.uint8]  # SIDE,SIDE,3
Thumbnails = npt.NDArray[np.uint8]  # N,SIDE,SIDE,C
Pixels = npt.NDArray[np.float32]  # N,SIDE,SIDE,C
# pixels with mean 0 and standard deviation 1, and the N original standard deviations in levels
Normalised = tuple[Pixels, npt.NDArray[np.float32]]
Matrix = npt.NDArray[np.bool_]  # N,N
Pairs = npt.NDArray[np.intp]  # P,2


@dataclass(frozen=True)
class DuplicateGroups:
    """Duplicates among records, by index of the record.

    Attributes:
        groups: for each record the index of the first member of its group; a record without
            duplicates is a group of its own.
        conflicts: pairs of near-duplicates with different classes, which are not grouped.
        sequences: sets of more than MAX_COPIES similar images of any class. Of these only images
            with equal pixels are grouped.
    """

    groups: list[int]
    conflicts: list[tuple[int, int]]
    sequences: list[list[int]]


def make_thumbnail(pixels: npt.NDArray[np.uint8]) -> Thumbnail:
    """Resize an image, H,W,3 uint8, to SIDE,SIDE,3 uint8 with an antialiasing filter."""
    return np.asarray(Image.fromarray(pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def find_candidates(records: Sequence[ImageInfo]) -> list[int]:
    """Return the sorted indices of the records whose thumbnails `find_duplicates` needs.

    Of records with equal pixels only the first is a candidate.
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
        records: results of the image check, for images that decode.
        labels: the class of each record.
        thumbnail: returns the thumbnail (`make_thumbnail`) of the record with the given index;
            called once for each of `find_candidates`.
        mode: "off" groups nothing, "exact" groups equal pixels only, "near" also resized and
            recompressed copies.

    Returns:
        The duplicates, by index in `records`.

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
    indices = [distinct[node] for node in nodes]
    thumbnails = np.stack([thumbnail(index) for index in indices])
    sets = [
        [indices[node] for node in members]
        for members in _find_similar_sets(thumbnails, ends.reshape(-1, 2))
    ]
    node_of = {index: node for node, index in enumerate(indices)}
    classes = _first_of_each_class(groups, labels)
    conflicts: list[tuple[int, int]] = []
    for members in (members for members in sets if 1 < len(members) <= MAX_COPIES):
        near = _confirm_pairs(thumbnails[[node_of[index] for index in members]])
        conflicts += _split_classes([classes[index] for index in members], near)
        _merge(groups, members, near)
    sequences = [_with_equal(groups, members) for members in sets if len(members) > MAX_COPIES]
    return DuplicateGroups([groups[first] for first in groups], sorted(conflicts), sequences)


def _group_equal(records: Sequence[ImageInfo]) -> list[int]:
    first: dict[str, int] = {}
    return [first.setdefault(record.pixels, index) for index, record in enumerate(records)]


def _first_of_each_class(groups: Sequence[int], labels: Sequence[str]) -> dict[int, dict[str, int]]:
    """Return the classes of each group of equal pixels, with the index of their first images."""
    classes: dict[int, dict[str, int]] = {}
    for index, (first, label) in enumerate(zip(groups, labels, strict=True)):
        classes.setdefault(first, {}).setdefault(label, index)
    return classes


def _with_equal(groups: Sequence[int], members: Sequence[int]) -> list[int]:
    """Return the indices of `members` and of all images with equal pixels."""
    firsts = set(members)
    return [index for index, first in enumerate(groups) if first in firsts]


def _propose_pairs(records: Sequence[ImageInfo]) -> tuple[list[int], Pairs]:
    """Return the images to compare, and the pairs among them that may be copies.

    The images are indices of records with different pixels and a perceptual hash. The pairs (P,2)
    are positions in this list.
    """
    firsts = dict.fromkeys(_group_equal(records))
    distinct = [index for index in firsts if records[index].signature]
    if len(distinct) < 2:
        return distinct, np.empty((0, 2), np.intp)
    signatures = np.frombuffer(
        bytes.fromhex("".join(records[index].signature for index in distinct)), np.uint8
    )
    return distinct, _pair_similar_hashes(signatures.reshape(len(distinct), -1))


def _pair_similar_hashes(signatures: Signatures) -> Pairs:
    """Return the pairs (P,2) of hashes within MAX_DISTANCE, limited to the nearest of each image.

    For each band the images are sorted by the bits of this band and of the next ones, and each
    image is compared with the MAX_COPIES images after it. The time therefore stays linear in
    sequences too, whose frames agree in whole bands.
    """
    bands = _cut_bands(signatures).astype(np.uint64)
    blocks = []
    for band in range(BANDS):
        key = np.zeros(len(bands), np.uint64)
        for offset in range(4):
            key = key << np.uint64(16) | bands[:, (band + offset) % BANDS]
        order = np.argsort(key, kind="stable")
        band_bits, hashes = bands[order, band], signatures[order]
        for step in range(1, min(MAX_COPIES, len(order) - 1) + 1):
            same = np.flatnonzero(band_bits[step:] == band_bits[:-step])
            if not len(same):
                break
            differing_bits = np.bitwise_count(hashes[same] ^ hashes[same + step])
            near = same[differing_bits.sum(axis=1, dtype=np.intp) <= MAX_DISTANCE]
            blocks.append(np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1))
    return _keep_nearest(
        np.unique(np.concatenate(blocks or [np.empty((0, 2), np.intp)]), axis=0), signatures
    )


def _keep_nearest(pairs: Pairs, signatures: Signatures) -> Pairs:
    """Return the pairs that are among the MAX_COPIES nearest of either image, on its side."""
    if not len(pairs):
        return pairs
    distance = np.bitwise_count(signatures[pairs[:, 0]] ^ signatures[pairs[:, 1]]).sum(
        axis=1, dtype=np.intp
    )
    is_near = np.zeros(len(pairs), bool)
    for side in (0, 1):
        order = np.lexsort((distance, pairs[:, side]))
        ends = pairs[order, side]
        is_near[order] |= np.arange(len(ends)) - np.searchsorted(ends, ends) < MAX_COPIES
    return pairs[is_near]


def _cut_bands(signatures: Signatures) -> npt.NDArray[np.int32]:
    # Neighbouring bits of the hash are neighbouring frequencies, which are correlated: a fixed
    # permutation makes the bands independent of each other.
    order = np.random.default_rng(0).permutation(BITS)
    bits = np.unpackbits(signatures, axis=1)[:, order]
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint16).astype(np.int32)  # N,16


def _find_similar_sets(thumbnails: Thumbnails, pairs: Pairs) -> list[list[int]]:
    """Return a partition of the thumbnails into sets that are similar in grey, transitively.

    Two thumbnails of `pairs` are similar if they differ by at most GAP times the limits of copies.
    Pairs whose thumbnails are in one set already are not compared. Since the pairs are processed in
    random order, a sequence costs little more than one comparison per image.
    """
    parent = list(range(len(thumbnails)))
    grey = thumbnails.mean(axis=3, keepdims=True, dtype=np.float32).astype(np.uint8)
    shuffled = np.random.default_rng(0).permutation(pairs)
    for start in range(0, len(pairs), CHUNK):
        chunk = shuffled[start : start + CHUNK]
        roots = np.array([_find_root(parent, node) for node in chunk.ravel().tolist()])
        roots = roots.reshape(-1, 2)
        chunk = chunk[roots[:, 0] != roots[:, 1]]
        is_similar = _are_near_duplicates(
            _normalise(grey[chunk[:, 0]]), _normalise(grey[chunk[:, 1]]), GAP
        )
        for one, other in chunk[is_similar].tolist():
            _unite(parent, one, other)
    members: dict[int, list[int]] = {}
    for node in range(len(parent)):
        members.setdefault(_find_root(parent, node), []).append(node)
    return list(members.values())


def _confirm_pairs(thumbnails: Thumbnails) -> Matrix:
    """Return N,N bool: True for pairs of thumbnails that are copies, compared in colour."""
    pixels, contrast = _normalise(thumbnails)
    near = np.zeros((len(pixels), len(pixels)), bool)
    one, other = np.triu_indices(len(pixels), k=1)
    is_similar = _are_near_duplicates(
        (pixels[one], contrast[one]), (pixels[other], contrast[other]), 1.0
    )
    one, other = one[is_similar], other[is_similar]
    near[one, other] = _measure_motion(pixels[one], pixels[other]) <= MAX_MOTION_PX
    return near | near.T


def _normalise(thumbnails: Thumbnails) -> Normalised:
    """Return pixels with mean 0 and standard deviation 1 for each image, and the contrasts.

    One gain and one offset are used for all pixels and channels of an image.
    """
    pixels = thumbnails.astype(np.float32)
    pixels -= pixels.mean(axis=(1, 2, 3), keepdims=True)
    contrast = np.asarray(np.sqrt(np.square(pixels).mean(axis=(1, 2, 3))), np.float32)
    pixels /= np.maximum(contrast, 1e-3)[:, None, None, None]
    return pixels, contrast


def _are_near_duplicates(one: Normalised, other: Normalised, slack: float) -> npt.NDArray[np.bool_]:
    """Return P bool: True for pairs whose difference is within `slack` times the limits.

    The limits of the residual apply to the whole image and to each cell. The ratio of the contrasts
    is limited too, independently of `slack`.
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
    is_similar = np.sqrt(squares.mean(axis=1)) <= slack * MAX_RESIDUAL
    is_similar &= np.sqrt(squares.max(axis=1)) * contrast <= slack * MAX_CELL_RESIDUAL
    is_gain_small = np.maximum(x_contrast, y_contrast) <= MAX_GAIN * np.minimum(
        x_contrast, y_contrast
    )
    return np.asarray(is_similar & is_gain_small, bool)


def _measure_motion(one: Pixels, other: Pixels) -> npt.NDArray[np.float64]:
    """Return the motion between the images of P pairs: P values, RMS over the image in px.

    Shift, zoom and rotation are fitted to the difference of the images, to the first order (Lucas &
    Kanade 1981).
    """
    mean, difference = (one + other) / 2, (one - other)[:, 1:-1, 1:-1]
    across = (mean[:, 1:-1, 2:] - mean[:, 1:-1, :-2]) / 2
    down = (mean[:, 2:, 1:-1] - mean[:, :-2, 1:-1]) / 2
    y, x = np.meshgrid(*2 * [np.linspace(-1, 1, SIDE - 2, dtype=np.float32)], indexing="ij")
    # scaled so that zoom and rotation of 1 move the content by 1 px (RMS)
    y, x = (axis[..., None] * np.float32(math.sqrt(1.5)) for axis in (y, x))
    slopes = np.stack([across, down, x * across + y * down, x * down - y * across], axis=1)
    slopes = slopes.reshape(len(one), 4, math.prod(difference.shape[1:]))
    system = slopes @ slopes.swapaxes(1, 2)
    # Regularisation: motion along stripes is not visible, and noise must not be fitted as motion.
    system += np.eye(4) * (0.01 * np.trace(system, axis1=1, axis2=2)[:, None, None] + 1e-3)
    motion = np.linalg.solve(system, slopes @ difference.reshape(len(one), slopes.shape[2], 1))
    return np.asarray(np.sqrt(np.square(motion).sum(axis=(1, 2))), np.float64)


def _split_classes(classes: Sequence[dict[str, int]], near: Matrix) -> list[tuple[int, int]]:
    """Remove pairs of different classes from `near` (N,N bool) in place, and return them.

    `classes` maps, for each of the N images, the classes of its equal images to the index of one
    image of the class. A returned pair has the indices of two images of different classes, sorted.
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
    """Update `groups` in place: group the images of `members` that are copies of each other.

    Greedy: the image with the most ungrouped copies starts a group, and each of its copies joins if
    it is a copy of all images in the group (`near`, N,N bool).
    """
    is_free = np.ones(len(members), bool)
    while (degree := (near & is_free).sum(axis=1) * is_free).any():
        group = [int(degree.argmax())]
        for node in np.flatnonzero(near[group[0]] & is_free).tolist():
            if near[node, group].all():
                group.append(node)
        is_free[group] = False
        first = min(members[node] for node in group)
        for node in group:
            groups[members[node]] = first


def _find_root(parent: list[int], node: int) -> int:
    """Return the root of a node in a union-find forest, halving the path to it."""
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


def _unite(parent: list[int], one: int, other: int) -> None:
    one, other = sorted((_find_root(parent, one), _find_root(parent, other)))
    parent[other] = one
