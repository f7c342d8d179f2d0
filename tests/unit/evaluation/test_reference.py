from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core.errors import UserError
from eyevsai.evaluation.reference import (
    ARRAYS,
    CARD,
    Reference,
    choose_rows,
    make_reference,
    read_reference,
    sample_by_class,
    write_reference,
)

CLASSES = ("a", "b", "ç 3")


def make(images: int = 120, split: str = "test", num_classes: int = 3) -> Reference:
    random = np.random.default_rng(0)
    classes = CLASSES if num_classes == 3 else tuple(map(str, range(num_classes)))
    labels = random.integers(0, num_classes, images)
    rows = choose_rows(labels, num_classes, seed=1)
    return make_reference(
        classes,
        random.dirichlet(np.full(num_classes, 0.3), images).astype(np.float32),
        labels,
        rows,
        random.random((len(rows), 6), dtype=np.float32),
        split=split,
        temperature=1.3,
        weights="abc",
    )


def test_a_reference_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = make()
    write_reference(written, tmp_path / "reference")
    read = read_reference(tmp_path / "reference")
    for name in ("probabilities", "labels", "statistics"):
        assert np.array_equal(getattr(read, name), getattr(written, name))
    assert read.probabilities.dtype == np.float16
    for name in ("classes", "split", "counts", "temperature", "weights", "baseline"):
        assert getattr(read, name) == getattr(written, name)
    assert read.images == sum(read.counts) == 120
    assert read.prior == pytest.approx(np.bincount(written.labels) / 120)
    assert not read.is_provisional
    assert make(split="valid").is_provisional


@pytest.mark.parametrize(("images", "num_classes"), [(20_000, 60), (5_000, 1_000)])
def test_large_references_are_sampled(tmp_path: Path, images: int, num_classes: int) -> None:
    reference = make(images, num_classes=num_classes)
    write_reference(reference, tmp_path)
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert 0.8e6 < size <= 1e6
    assert reference.images == images > len(reference.labels)
    shares = np.bincount(reference.labels, minlength=num_classes) / len(reference.labels)
    assert shares == pytest.approx(reference.prior, abs=1.5 / len(reference.labels))


@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    count=st.integers(1, 300),
    seed=st.integers(0, 99),
)
def test_samples_keep_the_shares_of_classes(sizes: list[int], count: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = sample_by_class(labels, count, seed)
    assert len(rows) == len(set(rows.tolist())) == min(count, len(labels))
    assert (np.diff(rows) > 0).all()
    if len(labels):
        taken = np.bincount(labels[rows], minlength=len(sizes))
        expected = len(rows) * np.array(sizes) / len(labels)
        # a class has at most one image more than its share, and each of the others may have one
        assert (np.abs(taken - expected) <= len(sizes)).all()
        if count >= len(sizes):
            assert (taken[np.array(sizes) > 0] > 0).all()
    assert np.array_equal(rows, sample_by_class(labels, count, seed))


def test_references_of_other_versions_are_rejected() -> None:
    reference = make()
    reference.check_model(CLASSES, "abc", "m/1")
    with pytest.raises(UserError, match=r"m/1 is that of another version.*other weights.*m/1"):
        reference.check_model(CLASSES, "abd", "m/1")
    with pytest.raises(UserError, match="other classes"):
        reference.check_model((*CLASSES[:2], "c"), "abc", "m/1")


def test_too_few_images_make_no_reference() -> None:
    with pytest.raises(UserError, match="The test split has 29 images, too few"):
        make(29)


def test_missing_and_damaged_references_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reference.json.*Create it with eyevsai evaluate"):
        read_reference(tmp_path)
    write_reference(make(), tmp_path)
    card = json.loads((tmp_path / CARD).read_text(encoding="utf-8"))

    def expect(message: str, **changes: object) -> None:
        (tmp_path / CARD).write_text(json.dumps(card | changes), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            read_reference(tmp_path)

    expect("newer eyevsai .format 2.", format=2)
    expect("is damaged: .*shape", classes=[*CLASSES, "d"])
    expect("is damaged: labels or counts do not fit 3", counts=[120])
    expect("is damaged: it has the image statistics", statistics=["size"])
    expect("is damaged: it has more images of a class", counts=[-1, 200, 200])
    expect("is damaged", baseline={})
    expect("is damaged", baseline=card["baseline"] | {"accuracy": "high"})
    arrays = tmp_path / ARRAYS
    expect("is damaged", format="1")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"x")
    expect("is damaged: the SHA-256 of reference.safetensors does not match")
    (tmp_path / CARD).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="is no JSON"):
        read_reference(tmp_path)
