from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eyevsai.data.dataset import load_dataset
from eyevsai.data.decode import UndecodableImage, decode
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.errors import UserError
from tests.conftest import write_images


def settings(folder: Path, cache: Path) -> DataSettings:
    return DataSettings(data=str(folder), cache_root=str(cache))


def test_the_cache_holds_what_decoding_and_resizing_give(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 5, "b": 5})
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    preprocessing = Preprocessing(32)
    data = dataset.open(preprocessing)
    for row, item in enumerate(dataset.items):
        expected = preprocessing.resize(torch.from_numpy(decode(item.path))[None])[0]
        assert torch.equal(data.pixels.image(row), expected)
    assert len(data.train) + len(data.valid) + len(data.test) == 10


def test_a_second_reading_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    first = dataset.open(Preprocessing(32)).pixels.image(0)
    for item in dataset.items:
        item.path.unlink()
    assert torch.equal(dataset.open(Preprocessing(32)).pixels.image(0), first)


def test_a_cache_of_another_size_is_another_cache(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    assert min(dataset.open(Preprocessing(32)).pixels.image(0).shape[:2]) == 37
    assert min(dataset.open(Preprocessing(64)).pixels.image(0).shape[:2]) == 74


def test_a_bad_image_is_named_and_leaves_no_half_cache(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    (folder / "a" / "001.png").write_bytes(b"torn")
    dataset = load_dataset(settings(folder, tmp_path / "cache"), seed=0)
    with pytest.raises(UndecodableImage, match=r"001\.png"):
        dataset.open(Preprocessing(32))
    assert not [path for path in (tmp_path / "cache" / "pixels").iterdir() if path.is_dir()]


def test_a_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 3, "b": 3})
    (tmp_path / "file").write_text("")
    dataset = load_dataset(settings(folder, tmp_path / "file"), seed=0)
    with pytest.raises(UserError, match="Choose another --cache-root"):
        dataset.open(Preprocessing(32))
