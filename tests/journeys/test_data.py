from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Eyevsai, write_images


def test_data_check_names_what_is_wrong_and_writes_a_page(eyevsai: Eyevsai, workplace: Path) -> None:
    folder = write_images(workplace / "set", {"<b>bold</b>": 5, "plain": 7})
    assert "0 bad" in eyevsai("data", "check", str(folder)).stdout
    (folder / "plain" / "zero.png").write_bytes(b"")
    (folder / "plain" / "copy.png").write_bytes((folder / "plain" / "001.png").read_bytes())
    done = eyevsai("data", "check", str(folder), "--page", "page.html", code=1)
    assert "zero.png: the file is empty" in done.stdout
    page = (workplace / "page.html").read_text()
    assert "zero.png" in page
    assert "<b>bold" not in page  # a class's name is data
    assert page.count("data:image/jpeg") >= 8
    report = json.loads(eyevsai("data", "check", str(folder), "--json", code=1).stdout)
    assert [bad["image"] for bad in report["bad"]] == ["set/plain/zero.png"]
    assert ["set/plain/001.png", "set/plain/copy.png"] in [group["images"] for group in report["duplicates"]]


def test_data_stats(eyevsai: Eyevsai, workplace: Path) -> None:
    folder = write_images(workplace / "set", {"a": 4, "b": 8})
    described = json.loads(eyevsai("data", "stats", str(folder), "--json").stdout)
    assert described["classes"] == {"a": 4, "b": 8}
    assert described["imbalance"] == 2
    assert described["width_px"] == [40, 50, 60]
    assert "8  b" in eyevsai("data", "stats", str(folder)).stdout


def test_data_cache_is_cleared(eyevsai: Eyevsai, workplace: Path) -> None:
    folder = write_images(workplace / "set", {"a": 10, "b": 10})
    tiny = ("--epochs", "1", "--width", "4", "--image-size", "32", "--batch-size", "8", "--threads", "1")
    eyevsai("train", "--data", str(folder), *tiny, "--cache-root", "cache")
    assert "0.0 MB" not in eyevsai("data", "cache", "--cache_root", "cache").stdout
    assert "freed" in eyevsai("data", "cache", "--clear", "--cache-root", "cache").stdout
    assert "0.0 MB" in eyevsai("data", "cache", "--cache-root", "cache").stdout


def test_a_folder_without_images_is_refused(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "nothing").mkdir()
    for command in ("check", "stats"):
        assert "There are no images in nothing" in eyevsai("data", command, "nothing", code=2).stderr
    assert not (workplace / "data_check.html").exists()


def test_mistakes_are_told(eyevsai: Eyevsai, workplace: Path) -> None:
    assert "Name a folder" in eyevsai("data", "check", code=2).stderr
    assert "There is no folder nowhere" in eyevsai("data", "stats", "nowhere", code=2).stderr
    (workplace / "file").write_text("")
    assert "is a file" in eyevsai("data", "check", "file", code=2).stderr
