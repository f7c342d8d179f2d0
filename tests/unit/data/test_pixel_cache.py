from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from eyevsai.core.errors import UserError
from eyevsai.data.dataset import load_dataset
from eyevsai.data.decode import decode
from eyevsai.data.disk_cache import DiskCache
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from tests.conftest import draw_image, write_images
from tests.forks import join_forks, start_fork, wait_for_file


def settings(folder: Path, cache: Path) -> DataSettings:
    return DataSettings(data=str(folder), cache_dir=str(cache))


def test_the_cache_holds_what_decoding_and_resizing_give(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 5, "b": 5})
    dataset = load_dataset(settings(folder, tmp_path / "cache"))
    preprocessing = Preprocessing(32)
    data = dataset.open(preprocessing)
    for row, item in enumerate(dataset.samples):
        expected = preprocessing.resize(torch.from_numpy(decode(item.file.path))[None])[0]
        assert torch.equal(data.pixels.image(row), expected)
    assert len(data.train) + len(data.valid) + len(data.test) == 10


def test_images_of_one_shape_are_read_as_one_batch(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for label, name in enumerate("ab"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            picture = Image.fromarray(draw_image(label, number, 40, 40))
            picture.save(folder / name / f"{number}.png")
    data = load_dataset(settings(folder, tmp_path / "cache")).open(Preprocessing(32))
    batch = data.train.batch([2, 0, 2])
    assert isinstance(batch, torch.Tensor)
    for image, other in zip(batch, data.train.images([2, 0, 2]), strict=True):
        assert torch.equal(image, other)
    batch.zero_()  # a copy: the cache stays as it is
    assert next(data.train.images([2])).any()

    Image.new("RGB", (64, 32), "red").save(folder / "a" / "wide.png")
    data = load_dataset(settings(folder, tmp_path / "cache")).open(Preprocessing(32))
    several = data.pixels.images(range(len(data.pixels)))
    assert isinstance(several, list)
    assert {tuple(image.shape) for image in several} == {(37, 37, 3), (37, 74, 3)}


def test_a_second_reading_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"))
    first = dataset.open(Preprocessing(32)).pixels.image(0)
    for item in dataset.samples:
        item.file.path.unlink()
    assert torch.equal(dataset.open(Preprocessing(32)).pixels.image(0), first)


def test_a_cache_of_another_size_is_another_cache(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"))
    assert min(dataset.open(Preprocessing(32)).pixels.image(0).shape[:2]) == 37
    assert min(dataset.open(Preprocessing(64)).pixels.image(0).shape[:2]) == 74


def test_an_image_that_changed_under_a_running_job_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"))
    (folder / "a" / "001.png").write_bytes((folder / "b" / "001.png").read_bytes())
    with pytest.raises(UserError, match=r"001\.png changed"):
        dataset.open(Preprocessing(32))
    assert not [path for path in (tmp_path / "cache" / "pixels").iterdir() if path.is_dir()]


def test_a_torn_cache_is_found_and_built_again(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"))
    expected = dataset.open(Preprocessing(32)).pixels.image(3)
    (path,) = (tmp_path / "cache" / "pixels").glob("*/pixels.u8")
    for damage in (
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    ):
        path.write_bytes(damage(path.read_bytes()))
        assert torch.equal(dataset.open(Preprocessing(32)).pixels.image(3), expected)


def test_caches_stay_below_their_limit_and_can_be_cleared(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"))
    kept = dataset.open(Preprocessing(32))
    before = kept.pixels.image(0)
    for size in (40, 48):
        replace(dataset, cache_limit_gb=5e-5).open(Preprocessing(size))
    caches = list((tmp_path / "cache" / "pixels").glob("*/cache.json"))
    assert [json.loads(path.read_text())["preprocessing"]["image_size"] for path in caches] == [48]
    assert torch.equal(kept.pixels.image(0), before)  # who has a map open keeps reading it
    cache = DiskCache(tmp_path / "cache", 1.0)
    assert cache.clear() > 0
    assert cache.clear() == 0


def build_and_add_up(folder: Path, cache: Path, out: Path, halfway: Path | None = None) -> None:
    """Build a cache and write down the sum of its pixels; with `halfway`, go no further than ten
    images.
    """
    from eyevsai.data import decode as module

    decoded: list[object] = []

    def stop_at_ten(content: object, depth: object) -> object:
        decoded.append(content)
        if halfway and len(decoded) == 10:
            halfway.touch()
            time.sleep(60)
        return decode(content, depth)

    module.decode = stop_at_ten  # in a fork
    data = load_dataset(settings(folder, cache)).open(Preprocessing(64))
    out.write_text(str(int(sum(data.pixels.image(row).sum() for row in range(30)))))


@pytest.mark.processes("one process is killed while it builds what two others wait for")
def test_two_builders_at_once_and_one_that_died(tmp_path: Path) -> None:
    folder, cache, halfway = (
        write_images(tmp_path / "set", {"a": 15, "b": 15}),
        tmp_path / "cache",
        tmp_path / "ten",
    )
    load_dataset(settings(folder, cache))
    lost = start_fork(build_and_add_up, folder, cache, tmp_path / "0", halfway)
    wait_for_file(halfway)
    assert list((cache / "pixels").glob(".building-*"))
    jobs = [
        start_fork(build_and_add_up, folder, cache, tmp_path / str(number)) for number in (1, 2)
    ]
    time.sleep(0.3)
    lost.kill()
    assert join_forks([lost, *jobs]) == [-signal.SIGKILL, 0, 0]
    expected = load_dataset(settings(folder, tmp_path / "other")).open(Preprocessing(64)).pixels
    total = str(int(sum(expected.image(row).sum() for row in range(30))))
    assert [(tmp_path / str(number)).read_text() for number in (1, 2)] == [total, total]
    assert len(list((cache / "pixels").glob("*/cache.json"))) == 1
    assert not list((cache / "pixels").glob(".building-*"))


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Choose another --cache-dir"):
        load_dataset(settings(folder, tmp_path / "file"))
    dataset = load_dataset(settings(folder, tmp_path / "cache"))
    with pytest.raises(UserError, match="Choose another --cache-dir"):
        replace(dataset, cache_dir=tmp_path / "file").open(Preprocessing(32))


def test_only_kinds_that_may_be_evicted_make_room(tmp_path: Path) -> None:
    """Fetched models make room for each other, and not for pixels, which may be kept under a higher
    limit.
    """

    def build(folder: Path) -> dict[str, object]:
        (folder / "nested").mkdir()
        (folder / "nested" / "file").write_bytes(bytes(40_000))
        return {}

    def keep(kind: str, name: str, *evicted: str) -> Path:
        cache = DiskCache(tmp_path, limit_gb=1e-4, evicted=evicted)
        return cache.open(kind, name, build, lambda folder: folder)

    pixels = keep("pixels", "a", "pixels")
    first, second, third = (keep("models", name, "models") for name in "abc")
    assert [folder.is_dir() for folder in (pixels, first, second, third)] == [
        True,
        False,
        False,
        True,
    ]


def test_a_file_in_a_folder_of_an_entry_is_verified(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> dict[str, object]:
        built.append(folder)
        (folder / "nested").mkdir()
        (folder / "nested" / "file").write_bytes(b"whole")
        return {}

    cache = DiskCache(tmp_path, 1.0)
    entry = cache.open("models", "a", build, lambda folder: folder)
    for damage in (
        lambda: (entry / "nested" / "file").write_bytes(b"torn!"),
        lambda: (entry / "more").touch(),
    ):
        damage()
        assert (
            cache.open("models", "a", build, lambda folder: folder) / "nested" / "file"
        ).read_bytes() == b"whole"
    assert len(built) == 3
    cache.open("models", "a", build, lambda folder: folder, fresh=True)
    assert len(built) == 4
