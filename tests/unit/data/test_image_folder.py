from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyevsai.core.errors import UserError
from eyevsai.data.catalog import DatasetFolder, find_source, list_datasets
from eyevsai.data.curation import check_usable, curate
from eyevsai.data.dataset import load_dataset
from eyevsai.data.image_folder import index_dataset
from eyevsai.data.settings import DataSettings
from tests.conftest import draw_image, write_images


def source(folder: Path) -> DatasetFolder:
    return DatasetFolder(folder.name, {folder.name: folder})


@pytest.mark.requirement(19)
def test_files_are_sorted_and_hidden_ones_and_loops_left_out(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"bánh mì": 3, "apple": 3})
    (folder / ".checkpoints").mkdir()
    (folder / "apple" / ".hidden.png").write_bytes(b"x")
    (folder / "apple" / "notes.txt").write_text("no image")
    (folder / "apple" / "loop").symlink_to(folder / "apple")
    (folder / "apple" / "again.png").symlink_to(folder / "apple" / "001.png")
    (folder / "apple" / "broken.png").symlink_to(folder / "nowhere.png")
    files = index_dataset(source(folder)).files
    # again.png is a file as others are
    assert [file.label for file in files] == ["apple"] * 4 + ["bánh mì"] * 3
    assert [file.name for file in files] == sorted(file.name for file in files)


def test_given_splits_are_read_from_their_folders(tmp_path: Path) -> None:
    for name, count, start in (("train", 6, 0), ("validation", 3, 50), ("test", 4, 90)):
        write_images(tmp_path / name, {"a": count, "b": count}, start)
    dataset = load_dataset(DataSettings(data=str(tmp_path)))
    assert [dataset.split_names.count(name) for name in ("train", "valid", "test")] == [12, 6, 8]
    assert dataset.classes == ("a", "b")


def test_the_fingerprint_tells_datasets_apart(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    before = curate(source(folder), tmp_path / "cache").fingerprint()
    assert curate(source(folder), tmp_path / "cache").fingerprint() == before
    (folder / "a" / "000.png").write_bytes((folder / "b" / "001.png").read_bytes())
    assert curate(source(folder), tmp_path / "cache").fingerprint() != before


def test_unions_are_composed_when_read_and_keep_colliding_classes_apart(tmp_path: Path) -> None:
    write_images(tmp_path / "pets", {"cat": 3, "pug": 3})
    write_images(tmp_path / "street_foods", {"taco": 3, "pug": 3})
    write_images(tmp_path / "instruments", {"harp": 3, "tuba": 4})
    write_images(tmp_path / "vegetables", {"bean": 3, "leek": 3})
    assert list(list_datasets(tmp_path))[-2:] == ["combined", "combined_all"]
    combined = load_dataset(DataSettings(dataset="combined", data_dir=str(tmp_path)))
    assert combined.classes == ("cat", "harp", "pug (pets)", "pug (street_foods)", "taco", "tuba")
    everything = load_dataset(DataSettings(dataset="combined_all", data_dir=str(tmp_path)))
    assert len(everything.classes) == 8
    assert len(everything.samples) == 25


def test_unused_rows_of_a_label_table_explain_a_small_class(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 5, "b": 5})
    cats, dogs = (sorted(path.name for path in (folder / name).iterdir()) for name in "ab")
    rows = [*(f"a/{name},cat" for name in cats), *(f"b/{name},dog" for name in dogs[:2])]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["path,label", *rows, "b/none.png,dog"]))
    dataset = replace(source(folder), labels=str(table))
    with pytest.raises(UserError, match=r"dog \(2\).*1 row of labels.csv without a file"):
        check_usable(curate(dataset, tmp_path / "cache"), 0.05)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "There are no images"),
        ({"only": 5}, "only one class"),
        ({"a": 5, "b": 2, "c": 0}, r"b \(2\), c \(0\)"),
    ],
)
@pytest.mark.requirement(19)
def test_what_cannot_be_learned_from_is_said(
    tmp_path: Path, counts: dict[str, int], message: str
) -> None:
    folder = write_images(tmp_path / "set", counts)
    folder.mkdir(exist_ok=True)
    with pytest.raises(UserError, match=message):
        check_usable(curate(source(folder), tmp_path / "cache"), 0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": "nowhere"}, "There is no folder nowhere"),
        ({"data": __file__}, "is a file"),
        ({"dataset": "digit"}, "Did you mean 'digits'"),
        ({"dataset": "combined"}, "combined needs pets"),
        ({"dataset": "pets"}, "Download it: `eyevsai data download pets`"),
    ],
)
def test_a_source_that_is_not_there_is_said(
    tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        find_source(DataSettings(**{"data_dir": str(tmp_path), **settings}))


def test_digits_are_written_once(cache_dir: Path) -> None:
    folder = find_source(DataSettings(cache_dir=str(cache_dir))).parts["digits"]
    stamp = folder.stat().st_mtime_ns
    dataset = load_dataset(DataSettings(cache_dir=str(cache_dir)))
    assert (len(dataset.samples), dataset.classes) == (1797, tuple("0123456789"))
    assert folder.stat().st_mtime_ns == stamp


def test_groups_stay_in_one_split(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for video in range(12):
            write_images(
                tmp_path / "set" / label,
                {f"video_{video}": 3},
                start=100 * video + 10_000 * (label == "b"),
            )
    given = DataSettings(
        data=str(tmp_path / "set"), groups=r"(video_\d+)/", cache_dir=str(tmp_path / "cache")
    )
    dataset = load_dataset(given)
    splits: dict[str | None, set[str]] = {}
    for item, split in zip(dataset.samples, dataset.split_names, strict=True):
        splits.setdefault(item.file.group, set()).add(split)
    assert len(splits) == 12
    assert all(len(found) == 1 for found in splits.values())
    assert [dataset.split_names.count(name) for name in ("train", "valid", "test")] == [48, 12, 12]


def test_a_hard_link_in_val_stays_in_val(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("val", 50)):
        write_images(tmp_path / "set" / split, {"a": 6, "b": 6}, start)
    for label in ("a", "b"):
        first = sorted((tmp_path / "set" / "val" / label).iterdir())[0]
        (tmp_path / "set" / "train" / label / "linked.png").hardlink_to(first)
    dataset = load_dataset(
        DataSettings(data=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    )
    assert dataset.split_names.count("valid") == 12
    assert [item.file.path.name for item in dataset.curated.left_out] == [
        "linked.png",
        "linked.png",
    ]


def test_one_photograph_in_two_classes_is_a_conflict(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 6, "b": 6})
    (folder / "b" / "linked.png").hardlink_to(sorted((folder / "a").iterdir())[0])
    found = load_dataset(DataSettings(data=str(folder), cache_dir=str(tmp_path / "cache"))).curated
    assert [{item.label for item in members} for members in found.duplicates()] == [{"a", "b"}]


@pytest.mark.parametrize(("cameras", "left_out"), [(1, 2), (6, 0)])
def test_frames_of_scenes_that_two_given_splits_share_stay(
    tmp_path: Path, cameras: int, left_out: int
) -> None:
    """A few near copies are left out of train; many are frames of the same scenes."""
    for split, start in (("train", 0), ("test", 100)):
        write_images(tmp_path / "set" / split, {"a": 12, "b": 24}, start)
    for camera in range(cameras):
        scene = np.asarray(
            Image.fromarray(draw_image(camera, 5000 + camera, 24)).resize((200, 200), 3)
        )
        for frame in range(4):
            noise = np.random.default_rng(10 * camera + frame).normal(0, 4, scene.shape)
            split = ("train", "test")[frame % 2]
            path = tmp_path / "set" / split / "a" / f"camera_{camera}_{frame}.png"
            Image.fromarray((scene + noise).clip(0, 255).astype(np.uint8)).save(path)
    found = load_dataset(
        DataSettings(data=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    ).curated
    assert len(found.left_out) == left_out
    assert any("too many to be copies" in note for note in found.notes) == (left_out == 0)
