"""Frozen data, and the labelled images that become part of them."""

from __future__ import annotations

import csv
import hashlib
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from eyevsai.config import compose_train
from eyevsai.core.errors import UserError
from eyevsai.evaluation.class_map import read_class_map
from eyevsai.inference_log.ids import Identities
from eyevsai.inference_log.images import ImageFolder
from eyevsai.inference_log.labels import LabelReader
from eyevsai.inference_log.records import Answer, KeptImage, Label, Version
from eyevsai.inference_log.store import LogStore
from eyevsai.retraining.selection import RECENT
from eyevsai.workflows.trained_model import TrainedModel
from eyevsai.workflows.watch.freeze import is_from_traffic, training_values
from eyevsai.workflows.watch.frozen_data import (
    DATA,
    FrozenData,
    FrozenImage,
    find_frozen,
    open_frozen,
    write_frozen,
)
from eyevsai.workflows.watch.labelled import read_labelled

LABELS = {"a/1.png": ("cat", "train"), "a/2.png": ('say "x"', "test"), "new/3": ("cat", RECENT)}


def freeze(root: Path) -> FrozenData:
    """Freeze three files, and move the folder to the place of its digest."""
    folder, images = root / "temporary", list[FrozenImage]()
    for path, (label, split) in LABELS.items():
        file = folder / DATA / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
        images.append(FrozenImage(path, label, split, hashlib.sha256(path.encode()).hexdigest()))
    frozen = write_frozen(folder, images, {RECENT: 1}, "models:/m/1")
    target = find_frozen(root, frozen.digest)
    folder.rename(target)
    return replace(frozen, folder=target)


def test_frozen_data_are_read_again(tmp_path: Path) -> None:
    frozen = freeze(tmp_path)
    assert open_frozen(tmp_path, frozen.digest) == frozen
    assert frozen.recent is not None
    assert [path.name for path in frozen.recent.rglob("3")] == ["3"]
    assert not (frozen.data / "new" / "3").exists()
    class_map = read_class_map(str(frozen.recent_map))
    assert class_map == tomllib.loads(frozen.recent_map.read_text())
    assert list(class_map.values()) == ["cat"]
    rows = list(csv.DictReader(frozen.table.open(encoding="utf-8")))
    assert [(row["path"], row["label"], row["split"]) for row in rows] == [
        ("a/1.png", "cat", "train"),
        ("a/2.png", 'say "x"', "test"),
    ]


def test_digest_depends_on_each_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = freeze(tmp_path / "first").digest
    monkeypatch.setitem(LABELS, "a/1.png", ("dog", "train"))
    assert freeze(tmp_path / "second").digest != first


def test_training_on_frozen_data_keeps_settings_without_a_value(tmp_path: Path) -> None:
    """None is the depth of trees without a limit; the default is a number."""
    explicit = {"model": "shallow/rf_hog_lbp", "max_depth": None, "dataset_name": "pets"}
    config = compose_train(explicit).flat()
    base = TrainedModel("0" * 32, None, None, tmp_path, config, "")
    frozen = freeze(tmp_path)
    values = compose_train(training_values(base, frozen, ["max_depth", "labels"])).flat()
    assert values["max_depth"] is None
    assert values["labels"] == str(frozen.table)


def test_changed_data_are_found(tmp_path: Path) -> None:
    frozen = freeze(tmp_path)
    image = frozen.data / "a" / "1.png"
    image.write_text("changed")
    with pytest.raises(UserError, match="has changed since it was frozen"):
        open_frozen(tmp_path, frozen.digest)
    image.unlink()
    with pytest.raises(UserError, match="Restore the frozen data"):
        open_frozen(tmp_path, frozen.digest)
    manifest = frozen.folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"cat"', '"dog"'))
    with pytest.raises(UserError, match="was changed"):
        open_frozen(tmp_path, frozen.digest)
    manifest.unlink()
    with pytest.raises(UserError, match="There are no frozen data"):
        open_frozen(tmp_path, frozen.digest)


def test_labelled_images(tmp_path: Path) -> None:
    """Each image counts once, with the label on which all answers agree."""
    store, identities = LogStore.open(f"sqlite:///{tmp_path / 'log.db'}"), Identities(b"x" * 32)
    store.add_versions([Version("m", 1, ("cat", "dog"))])
    folder = ImageFolder(tmp_path / "images")
    digests = [hashlib.sha256(bytes([number])).digest() for number in range(4)]

    def answer(digest: bytes, *labels: tuple[str, str]) -> None:
        each = Answer(identities.new_id(), 1.8e9, "m", 1, label="cat", sha256=digest)
        store.add_answers([each])
        store.add_labels([Label(each.id, name, source) for name, source in labels])

    for digest in digests[:3]:
        folder.write(KeptImage(digest, "", "random", digest))
    answer(digests[0], ("cat", "person:a"))
    answer(digests[0], ("cat", "person:b"))  # the same image
    answer(digests[1], ("cat", "person:a"))
    answer(digests[1], ("dog", "person:a"))  # the same image, another label
    answer(digests[2], ("cat", "import"), ("dog", "person:a"))  # a person wins
    answer(digests[3], ("dog", "person:a"))  # not stored
    answer(digests[2], ("giraffe", "person:a"))
    answer(digests[2], ("cat", "person:a"), ("dog", "person:b"))  # persons disagree
    answer(digests[2])
    labelled = read_labelled(LabelReader(store), folder, "m", ("cat", "dog"))
    assert {each.sha256: each.label for each in labelled.images} == {
        digests[0].hex(): "cat",
        digests[2].hex(): "dog",
    }
    assert labelled.unused == {"disputed": 3, "unknown_class": 1, "no_image": 1}
    assert labelled.count_new(0) == 2
    assert labelled.count_new(labelled.newest) == 0
    nothing = read_labelled(LabelReader(store), None, "m", ("cat", "dog"))
    assert nothing.images == ()


def test_only_added_images_are_from_the_traffic() -> None:
    """A class of the dataset can be called `new`."""
    assert is_from_traffic(f"new/{'0a' * 32}.png")
    assert is_from_traffic(f"new/{'0a' * 32}")
    assert not is_from_traffic("new/photo.png")
    assert not is_from_traffic(f"old/{'0a' * 32}.png")
