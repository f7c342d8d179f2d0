from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.similar import copies
from eyevsai.core.errors import UserError
from eyevsai.data import parallel
from eyevsai.data.catalog import DatasetFolder
from eyevsai.data.curation import curate
from eyevsai.data.dataset import load_dataset
from eyevsai.data.decode import decode
from eyevsai.data.duplicates import find_candidates, find_duplicates, make_thumbnail
from eyevsai.data.image_checks import check_image, check_images
from eyevsai.data.image_folder import index_dataset
from eyevsai.data.settings import DataSettings
from tests.conftest import draw_image, draw_scene, write_images


def settings(folder: Path, tmp_path: Path, **changes: float) -> DataSettings:
    return DataSettings(data=str(folder), cache_dir=str(tmp_path / "cache"), **changes)


@pytest.mark.requirement(3)
def test_every_bad_file_is_named_once_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_images(tmp_path / "set", {"a": 30, "b": 30})
    (folder / "a" / "zero.png").write_bytes(b"")
    (folder / "a" / "text.jpg").write_text("no image at all")
    data = (folder / "b" / "001.png").read_bytes()
    (folder / "b" / "torn.png").write_bytes(data[: len(data) // 2])
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.*")}
    dataset = load_dataset(settings(folder, tmp_path))
    report = dataset.curated.report()
    assert [bad["image"] for bad in report["bad"]] == [
        "set/a/text.jpg",
        "set/a/zero.png",
        "set/b/torn.png",
    ]
    assert all(bad["reason"] for bad in report["bad"])
    assert len(dataset.samples) == 60
    assert {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*.*")
    } == before


@pytest.mark.requirement(3)
def test_too_many_bad_files_are_refused_before_training(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 10, "b": 10})
    for number in range(2):
        (folder / "a" / f"bad{number}.png").write_bytes(b"x")
    with pytest.raises(
        UserError, match=r"2 of 22 images.*--max-bad-fraction 0\.05(.|\n)*bad1\.png"
    ):
        load_dataset(settings(folder, tmp_path))
    assert len(load_dataset(settings(folder, tmp_path, max_bad_fraction=0.1)).samples) == 20


def test_all_files_bad(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "x.png").write_bytes(b"x")
    with pytest.raises(UserError, match="2 of 2 images"):
        load_dataset(settings(tmp_path / "set", tmp_path))


def test_a_misnamed_image_is_used_and_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    (folder / "a" / "000.png").rename(folder / "a" / "000.jpg")
    report = load_dataset(settings(folder, tmp_path)).curated.report()
    assert report["wrong_extension"] == [{"image": "set/a/000.jpg", "format": "PNG"}]
    assert report["images"] == 6


def test_a_second_look_opens_no_file(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    files = index_dataset(DatasetFolder("set", {"set": folder})).files
    records = check_images(files, tmp_path / "cache")
    for file in files:
        os.truncate(file.path, 0)
    # the same sizes and times are handed in
    assert check_images(files, tmp_path / "cache") == records
    assert all(
        record.error
        for record in check_images(
            index_dataset(DatasetFolder("set", {"set": folder})).files, tmp_path
        )
    )


def test_a_torn_scan_cache_is_rewritten(tmp_path: Path) -> None:
    files = index_dataset(
        DatasetFolder("set", {"set": write_images(tmp_path / "set", {"a": 3, "b": 3})})
    ).files
    records = check_images(files, tmp_path / "cache")
    for scan_cache in (tmp_path / "cache" / "audit").iterdir():
        scan_cache.write_text(scan_cache.read_text()[:100])
    assert check_images(files, tmp_path / "cache") == records


def test_a_file_that_may_not_be_read_is_a_bad_one(tmp_path: Path) -> None:
    record = check_image(tmp_path / "gone.png")
    assert record.error == "cannot be read: No such file or directory"


def find_groups(paths: Sequence[Path]) -> list[int]:
    """Return the groups of near-duplicates of files of one class."""
    records = [check_image(path) for path in paths]
    thumbnails = {index: make_thumbnail(decode(paths[index])) for index in find_candidates(records)}
    return find_duplicates(records, [""] * len(records), thumbnails.__getitem__).groups


def test_equal_pixels_are_found_whatever_the_format(tmp_path: Path) -> None:
    pixels = draw_image(0, 0)
    for name in ("one.png", "two.bmp", "three.tiff"):
        Image.fromarray(pixels).save(tmp_path / name)
    records = [check_image(path) for path in sorted(tmp_path.iterdir())]
    assert len({record.digest for record in records}) == 3
    assert find_groups(sorted(tmp_path.iterdir())) == [0, 0, 0]


@pytest.mark.requirement(9)
def test_on_photographs_copies_are_found_and_strangers_are_not(
    photos: Path, tmp_path: Path
) -> None:
    paths = sorted(photos.glob("*/*/*.jpg"))[::7]
    flagged = len(paths) - len(set(find_groups(paths)))
    assert flagged <= 0.01 * len(paths)
    made = []
    for path in paths[::20]:
        for number, copy in enumerate(copies(Image.open(path).convert("RGB"))):
            copied = tmp_path / f"{len(made)}-{number}.png"
            copy.save(copied)
            made.append((path, copied))
    groups = find_groups([*paths, *(copied for _, copied in made)])
    found = [
        groups[len(paths) + index] == groups[paths.index(path)]
        for index, (path, _) in enumerate(made)
    ]
    assert np.mean(found) >= 0.95


@pytest.mark.requirement(9)
def test_an_image_in_two_given_splits_stays_in_the_more_careful_one(tmp_path: Path) -> None:
    for name, start in (("train", 0), ("valid", 100), ("test", 200)):
        for label in "ab":
            (tmp_path / "set" / name / label).mkdir(parents=True)
            for number in range(6):
                draw_scene(start + number + (label == "b") * 50).save(
                    tmp_path / "set" / name / label / f"{number}.png"
                )
    draw_scene(200).save(tmp_path / "set" / "train" / "a" / "leak.bmp")
    copies(draw_scene(201))[0].save(tmp_path / "set" / "valid" / "a" / "near.png")
    draw_scene(100).save(tmp_path / "set" / "train" / "a" / "other.png")
    found = curate(DatasetFolder("set", {"set": tmp_path / "set"}), tmp_path / "cache")
    assert found.report()["left_out"] == [
        "set/train/a/leak.bmp",
        "set/train/a/other.png",
        "set/valid/a/near.png",
    ]
    splits: dict[int, set[str | None]] = {}
    for item in found.samples:
        splits.setdefault(item.group, set()).add(item.file.split)
    assert all(len(names) == 1 for names in splits.values())


def test_an_interrupted_scan_resumes_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyevsai.data import image_checks

    monkeypatch.setattr(parallel, "CHUNK", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 0)  # no worker processes
    files = index_dataset(
        DatasetFolder("set", {"set": write_images(tmp_path / "set", {"a": 8, "b": 5})})
    ).files
    seen: list[Path] = []

    def note(path: Path) -> image_checks.ImageInfo:
        seen.append(path)
        return check_image(path)

    def stop_at_b(path: Path) -> image_checks.ImageInfo:
        if path.parent.name == "b":
            raise UserError("stopped")
        return note(path)

    monkeypatch.setattr(image_checks, "check_image", stop_at_b)
    with pytest.raises(UserError, match="stopped"):
        check_images(files, tmp_path / "cache")
    monkeypatch.setattr(image_checks, "check_image", note)
    check_images(files, tmp_path / "cache")
    assert sorted(seen) == sorted(file.path for file in files)


def test_what_could_not_be_read_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyevsai.data import image_checks

    files = index_dataset(
        DatasetFolder("set", {"set": write_images(tmp_path / "set", {"a": 3, "b": 3})})
    ).files
    denied = image_checks.ImageInfo("", error="cannot be read: Permission denied")
    with monkeypatch.context() as patch:
        patch.setattr(
            image_checks,
            "check_image",
            lambda path: denied if path.name == "001.png" else check_image(path),
        )
        assert sum(bool(record.error) for record in check_images(files, tmp_path / "cache")) == 2
    assert not any(record.error for record in check_images(files, tmp_path / "cache"))
