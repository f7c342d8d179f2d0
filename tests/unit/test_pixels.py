from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from eyevsai.data.cache import Cache
from eyevsai.data.dataset import load_dataset
from eyevsai.data.decode import decode
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.errors import UserError
from tests.conftest import ROOT, write_images


def settings(folder: Path, cache: Path) -> DataSettings:
    return DataSettings(data=str(folder), cache_root=str(cache))


def test_the_cache_holds_what_decoding_and_resizing_give(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 5, "b": 5})
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    preprocessing = Preprocessing(32)
    data = dataset.open(preprocessing)
    for row, item in enumerate(dataset.items):
        expected = preprocessing.resize(torch.from_numpy(decode(item.file.path))[None])[0]
        assert torch.equal(data.pixels.image(row), expected)
    assert len(data.train) + len(data.valid) + len(data.test) == 10


def test_a_second_reading_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    first = dataset.open(Preprocessing(32)).pixels.image(0)
    for item in dataset.items:
        item.file.path.unlink()
    assert torch.equal(dataset.open(Preprocessing(32)).pixels.image(0), first)


def test_a_cache_of_another_size_is_another_cache(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    assert min(dataset.open(Preprocessing(32)).pixels.image(0).shape[:2]) == 37
    assert min(dataset.open(Preprocessing(64)).pixels.image(0).shape[:2]) == 74


def test_an_image_that_changed_under_a_running_job_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    (folder / "a" / "001.png").write_bytes((folder / "b" / "001.png").read_bytes())
    with pytest.raises(UserError, match=r"001\.png changed"):
        dataset.open(Preprocessing(32))
    assert not [path for path in (tmp_path / "cache" / "pixels").iterdir() if path.is_dir()]


def test_a_torn_cache_is_found_and_built_again(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    expected = dataset.open(Preprocessing(32)).pixels.image(3)
    (path,) = (tmp_path / "cache" / "pixels").glob("*/pixels.u8")
    for damage in (lambda data: data[: len(data) // 2], lambda data: data[:-1] + bytes([data[-1] ^ 1])):
        path.write_bytes(damage(path.read_bytes()))
        assert torch.equal(dataset.open(Preprocessing(32)).pixels.image(3), expected)


def test_caches_stay_below_their_limit_and_can_be_cleared(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    kept = dataset.open(Preprocessing(32))
    before = kept.pixels.image(0)
    for size in (40, 48):
        replace(dataset, cache_limit_gb=5e-5).open(Preprocessing(size))
    caches = list((tmp_path / "cache" / "pixels").glob("*/cache.json"))
    assert [json.loads(path.read_text())["preprocessing"]["image_size"] for path in caches] == [48]
    assert torch.equal(kept.pixels.image(0), before)  # who has a map open keeps reading it
    cache = Cache(tmp_path / "cache", 1.0)
    assert cache.clear() > 0
    assert cache.clear() == 0


def test_two_builders_at_once_and_one_that_died(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 30, "b": 30})
    code = (
        "import sys; from eyevsai.data.dataset import load_dataset; from eyevsai.data.preprocessing import *\n"
        "from eyevsai.data.settings import DataSettings\n"
        "data = load_dataset(DataSettings(data=sys.argv[1], cache_root=sys.argv[2]), 0).open(Preprocessing(64))\n"
        "print(int(sum(data.pixels.image(row).sum() for row in range(60))))"
    )
    (tmp_path / "cache" / "pixels").mkdir(parents=True)
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "cache")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(3)]
    jobs[0].send_signal(signal.SIGKILL)
    sums = {job.communicate(timeout=120)[0] for job in jobs[1:]}
    assert [job.returncode for job in jobs[1:]] == [0, 0]
    assert len(sums) == 1
    assert len(list((tmp_path / "cache" / "pixels").glob("*/cache.json"))) == 1
    assert not list((tmp_path / "cache" / "pixels").glob(".building-*"))


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Choose another --cache-root"):
        load_dataset(settings(folder, tmp_path / "file"), seed=0)
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    with pytest.raises(UserError, match="Choose another --cache-root"):
        replace(dataset, cache_root=tmp_path / "file").open(Preprocessing(32))
