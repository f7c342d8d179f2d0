from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

import eyevsai as eyevsai_package
from tests.conftest import TINY, TINY_NETWORK, Eyevsai, draw_image, write_images


def test_data_check_names_what_is_wrong_and_writes_a_page(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    folder = write_images(workplace / "set", {"<b>bold</b>": 5, "plain": 7})
    assert "0 bad" in eyevsai("data", "check", str(folder)).stdout
    (folder / "plain" / "zero.png").write_bytes(b"")
    (folder / "plain" / "copy.png").write_bytes((folder / "plain" / "001.png").read_bytes())
    done = eyevsai("data", "check", str(folder), "--page", "page.html", code=1)
    assert "zero.png is empty" in done.stdout
    page = (workplace / "page.html").read_text()
    assert "zero.png" in page
    assert "<b>bold" not in page  # a class's name is data
    assert page.count("data:image/jpeg") >= 8
    report = json.loads(eyevsai("data", "check", str(folder), "--json", code=1).stdout)
    assert [bad["image"] for bad in report["bad"]] == ["set/plain/zero.png"]
    assert ["set/plain/001.png", "set/plain/copy.png"] in [
        group["images"] for group in report["duplicates"]
    ]


def test_data_stats(eyevsai: Eyevsai, workplace: Path) -> None:
    folder = write_images(workplace / "set", {"a": 4, "b": 8})
    described = json.loads(eyevsai("data", "stats", str(folder), "--json").stdout)
    assert described["classes"] == {"a": 4, "b": 8}
    assert described["imbalance"] == 2
    assert described["width_px"] == [40, 50, 60]
    assert "8  b" in eyevsai("data", "stats", str(folder)).stdout


def test_data_cache_is_cleared(eyevsai: Eyevsai, workplace: Path) -> None:
    folder = write_images(workplace / "set", {"a": 10, "b": 10})
    eyevsai("train", "--data", str(folder), *TINY_NETWORK, "--cache-dir", "cache")
    assert "0.0 MB" not in eyevsai("data", "cache", "--cache_dir", "cache").stdout
    assert "freed" in eyevsai("data", "cache", "--clear", "--cache-dir", "cache").stdout
    assert "0.0 MB" in eyevsai("data", "cache", "--cache-dir", "cache").stdout


def test_a_folder_without_images_is_refused(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "nothing").mkdir()
    for command in ("check", "stats"):
        assert (
            "There are no images in nothing" in eyevsai("data", command, "nothing", code=2).stderr
        )
    assert not (workplace / "data_check.html").exists()


def test_mistakes_are_told(eyevsai: Eyevsai, workplace: Path) -> None:
    assert "Name a folder" in eyevsai("data", "check", code=2).stderr
    assert "There is no folder nowhere" in eyevsai("data", "stats", "nowhere", code=2).stderr
    (workplace / "file").write_text("")
    assert "is a file" in eyevsai("data", "check", "file", code=2).stderr


def test_train_and_check_name_what_is_not_used(eyevsai: Eyevsai, workplace: Path) -> None:
    folder = write_images(workplace / "set", {"a": 10, "b": 10})
    write_images(workplace, {"set": 3}, start=50)  # three images in the root
    (folder / "a" / "notes.txt").write_text("no image")
    (folder / "b" / "movie.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    for said in (
        eyevsai("train", "--data", str(folder), *TINY).stderr,
        eyevsai("data", "check", str(folder)).stdout,
    ):
        assert "20 images in 2 classes: a (10), b (10)" in said
        assert "3 files in the root" in said
        assert "1 file that is not an image (notes.txt)" in said
        assert "1 file that does not decode (movie.heic)" in said
    assert "split: train 14, valid 4, test 2" not in eyevsai("data", "stats", str(folder)).stdout
    page = (workplace / "data_check.html").read_text()
    assert "1 file that does not decode (movie.heic)" in page
    assert "3 files in the root" in page


@pytest.mark.parametrize("clear", [False, True])
def test_swapped_class_folders_of_equal_files_are_seen(
    eyevsai: Eyevsai, workplace: Path, *, clear: bool
) -> None:
    folder = workplace / "set"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            path = folder / label / f"{number}.bmp"
            Image.fromarray(draw_image(number + 100 * (label == "dog"), 0, 40)).save(path)
            os.utime(path, (1e9, 1e9))
    cache = ("--cache-dir", str(workplace / "cache"))
    eyevsai("train", "--data", str(folder), *TINY, *cache)
    before = split_of(1)
    (folder / "cat").rename(folder / "other")
    (folder / "dog").rename(folder / "cat")
    (folder / "other").rename(folder / "dog")
    if clear:
        eyevsai("data", "cache", "--clear", *cache)
        assert not list((workplace / "cache").glob("audit/*"))
    eyevsai("train", "--data", str(folder), *TINY, *cache)
    after = split_of(2)
    assert {(label, digest) for _, label, digest in before} == {
        ("dog" if label == "cat" else "cat", digest) for _, label, digest in after
    }


def split_of(version: int) -> list[tuple[str, str, str]]:
    client = MlflowClient()
    run_id = client.get_model_version("set-deep_v1-standard", str(version)).run_id
    lines = Path(client.download_artifacts(str(run_id), "split.tsv")).read_text().splitlines()[1:]
    return [
        (split, label, digest) for split, label, _, digest in (line.split("\t") for line in lines)
    ]


def test_a_file_that_changes_unseen_is_looked_at_again(eyevsai: Eyevsai, workplace: Path) -> None:
    from eyevsai.data import image_checks

    folder = write_images(workplace / "set", {"a": 10, "b": 10})
    cache = ("--cache-dir", str(workplace / "cache"))
    eyevsai("data", "check", str(folder), *cache)
    changed = folder / "a" / "000.png"
    Image.fromarray(draw_image(999, 3)).save(changed)
    (scan_cache,) = [
        path
        for path in (workplace / "cache" / "audit").glob("v*.json")
        if "000.png" in path.read_text()
        and path.name == image_checks._scan_cache_path(changed.parent, Path("x")).name
    ]
    content = json.loads(scan_cache.read_text())
    status = changed.stat()
    mark = f"000.png|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"
    old = next(name for name in content if name.startswith("000.png|"))
    scan_cache.write_text(
        json.dumps({mark if name == old else name: value for name, value in content.items()})
    )
    said = eyevsai("train", "--data", str(folder), *TINY, *cache, code=2).stderr
    assert "000.png changed while the dataset was being read" in said
    eyevsai("train", "--data", str(folder), *TINY, *cache)


def test_seeds_share_one_split_and_can_be_compared(eyevsai: Eyevsai, workplace: Path) -> None:
    folder = write_images(workplace / "set", {"a": 20, "b": 20})
    for number, flags in enumerate(
        (("--seed", "0"), ("--seed", "1"), ("--split-seed", "1")), start=1
    ):
        eyevsai("train", "--data", str(folder), *TINY, *flags)
        eyevsai(
            "evaluate",
            "--model-uri",
            f"models:/set-deep_v1-standard/{number}",
            "--corruption-images",
            "0",
        )
    assert split_of(1) == split_of(2) != split_of(3)
    names = [f"models:/set-deep_v1-standard/{number}" for number in (1, 2, 3)]
    assert names[1] in eyevsai("compare", *names[:2]).stdout
    assert (
        "Compare models of one dataset with one --split-seed"
        in eyevsai("compare", names[0], names[2], code=2).stderr
    )


def test_predict_reads_a_folder_as_training_does(eyevsai: Eyevsai, workplace: Path) -> None:
    folder = write_images(workplace / "set", {"a": 10, "b": 10})
    eyevsai("train", "--data", str(folder), *TINY)
    some = workplace / "some"
    some.mkdir()
    image = Image.fromarray(draw_image(0, 0))
    for name, kind in {
        "a.jfif": "JPEG",
        "b.avif": "AVIF",
        "c.jp2": "JPEG2000",
        "d.ppm": "PPM",
        "e": "PNG",
    }.items():
        image.save(some / name, kind)
    (some / "linked").symlink_to(folder / "a")
    (some / "notes.txt").write_text("no image")
    (some / "Thumbs.db").write_bytes(b"x")
    done = eyevsai("predict", "models:/set-deep_v1-standard/1", str(some))
    assert len(done.stdout.splitlines()) == 15
    assert "not used: 1 file that is not an image (notes.txt)" in done.stderr


def test_images_of_more_than_8_bits_have_the_range_of_their_dataset(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    folder = workplace / "deep"
    for label, high in (("bright", 4000), ("dark", 900)):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            values = (
                np.random.default_rng(number + high).integers(0, high, (40, 40)).astype(np.uint16)
            )
            Image.fromarray(values).save(folder / label / f"{number}.png")
    said = eyevsai("train", "--data", str(folder), *TINY).stderr
    assert "24 images have more than 8 bits: white is 4095 (--bit-depth)" in said
    model = eyevsai_package.load("models:/deep-deep_v1-standard/1")
    assert model.metadata["preprocessing"]["depth"] == {"integer_top": 4095.0, "float_top": 1.0}
    assert model.depth is not None
    said = eyevsai("train", "--data", str(folder), *TINY, "--bit-depth", "16").stderr
    assert "are nearly black" in said
