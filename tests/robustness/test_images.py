"""Faults of a dataset's images: damage, awkward encodings, decompression bombs, odd names and empty
classes.
"""

from __future__ import annotations

import base64
import ctypes
import gc
import hashlib
import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eyevsai.core.errors import UserError
from eyevsai.data.catalog import DatasetFolder
from eyevsai.data.curation import curate
from eyevsai.data.dataset import load_dataset
from eyevsai.data.decode import decode
from eyevsai.data.image_checks import check_image
from eyevsai.data.image_folder import index_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.serving.classifier import make_classifier
from eyevsai.serving.pyfunc import PyfuncModel
from tests.conftest import Eyevsai, draw_image, write_images
from tests.robustness.mutation import write_mutants


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*.*")
    }


@pytest.mark.requirement(3)
@pytest.mark.parametrize("count", [600, pytest.param(6000, marks=pytest.mark.slow)])
def test_mutated_images_are_named_and_never_crash(tmp_path: Path, count: int) -> None:
    (tmp_path / "set" / "a").mkdir(parents=True)
    paths = list(write_mutants(tmp_path / "set" / "a", count, seed=0))
    before = hashes(tmp_path / "set")
    found = curate(DatasetFolder("set", {"set": tmp_path / "set"}), tmp_path / "cache")
    assert len(found.files) == count
    bad = [file.path for file, _ in found.bad]
    assert len(bad) == len(set(bad))
    assert all(record.error for _, record in found.bad)
    undecodable = set()
    for path in paths:
        try:
            decode(path)
        except UserError:
            undecodable.add(path)
    assert set(bad) == undecodable
    assert 0.1 * count < len(bad) < count
    assert hashes(tmp_path / "set") == before


@pytest.mark.requirement(3)
def test_a_run_refuses_too_many_bad_files_and_skips_few(eyevsai: Eyevsai, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"a": 25, "b": 25})
    tiny = (
        "--data",
        str(folder),
        "--epochs",
        "1",
        "--width",
        "8",
        "--image-size",
        "32",
        "--batch-size",
        "16",
        "--threads",
        "1",
    )
    (folder / "a" / "zero.png").write_bytes(b"")
    done = eyevsai("train", *tiny)
    assert "not used: 1 file that does not decode" in done.stderr
    for number in range(8):
        (folder / "b" / f"bad{number}.jpg").write_bytes(b"no image")
    done = eyevsai("train", *tiny, code=2)
    assert "9 of 59 images" in done.stderr
    assert "Traceback" not in done.stderr


def awkward_images(folder: Path) -> dict[Path, np.ndarray]:
    """Files of every awkward kind, with the picture that each must show."""
    pixels = draw_image(1, 1, 48, 40)
    image, expected = Image.fromarray(pixels), {}
    turns = {
        3: Image.Transpose.ROTATE_180,
        6: Image.Transpose.ROTATE_90,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, turn in turns.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        expected[folder / f"exif{orientation}.png"] = pixels
        image.transpose(turn).save(folder / f"exif{orientation}.png", exif=exif)
    grey = pixels[..., 0]
    Image.fromarray(grey.astype(np.uint16) * 257).save(folder / "deep.png")
    expected[folder / "deep.png"] = np.repeat(grey[..., None], 3, axis=2)
    Image.fromarray(grey > 99).save(folder / "bits.png")
    expected[folder / "bits.png"] = np.repeat(
        np.where(grey > 99, 255, 0)[..., None], 3, axis=2
    ).astype(np.uint8)
    clear = np.dstack([pixels, np.where(grey > 99, 255, 0).astype(np.uint8)])
    Image.fromarray(clear).save(folder / "alpha.png")
    expected[folder / "alpha.png"] = np.where(clear[..., 3:] == 255, pixels, 255).astype(np.uint8)
    palette = image.quantize(16)
    palette.save(
        folder / "animated.gif", save_all=True, append_images=[Image.new("P", image.size, 3)]
    )
    expected[folder / "animated.gif"] = np.array(palette.convert("RGB"))
    image.convert("CMYK").save(folder / "cmyk.tiff")
    expected[folder / "cmyk.tiff"] = np.array(image.convert("CMYK").convert("RGB"))
    return expected


@pytest.mark.requirement(17)
def test_every_path_sees_one_identical_picture(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
    expected = awkward_images(tmp_path / "set" / "a")
    write_images(tmp_path / "set", {"b": 5})
    for path, picture in expected.items():
        np.testing.assert_array_equal(decode(path), picture, err_msg=path.name)
        np.testing.assert_array_equal(decode(path.read_bytes()), picture, err_msg=path.name)
    preprocessing = Preprocessing(32)
    dataset = load_dataset(
        DataSettings(data=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    )
    trained_on = dataset.open(preprocessing).pixels
    learner = DeepV1Learner("standard", DeepV1Settings(image_size=32, width=4), ("a", "b"), 0)
    classifier = make_classifier(learner)
    for row, item in enumerate(dataset.samples):
        if item.label == "b":
            continue
        path = item.file.path
        data = path.read_bytes()
        cells = [str(path), data, base64.b64encode(data).decode(), expected[path]]
        answers = PyfuncModel(classifier).predict(pd.DataFrame({"image": cells}))["probability"]
        cached = float(learner.predict_proba([trained_on.image(row).numpy()]).max())
        assert set(answers) == {cached}, path.name


def status_mib(name: str) -> float:
    """Return a size of this process in MiB: VmRSS now, VmHWM at its peak."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def peak_rise_mib(work: Callable[[], object]) -> float:
    """Return by how many MiB `work` raises the memory of this process at its peak."""
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        pytest.skip(f"no {peak}: the peak of memory cannot be measured")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what was freed before must not hide what is taken now
    peak.write_text("5")  # it begins anew
    before = status_mib("VmRSS")
    work()
    return status_mib("VmHWM") - before


def test_the_peak_of_memory_is_measured() -> None:
    assert 190 < peak_rise_mib(lambda: np.ones(200 * 2**20, np.uint8)) < 260


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes whose header promises an enormous picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(20_000_000), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


@pytest.mark.requirement(18)
@pytest.mark.parametrize(
    ("width", "height"), [(13_000, 13_700), (30_000, 30_000), (65_000, 65_000), (9_500, 9_500)]
)
def test_bombs_are_refused_by_name_without_their_memory(
    tmp_path: Path, width: int, height: int
) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(width, height))
    errors = list[str | None]()
    assert peak_rise_mib(lambda: errors.append(check_image(tmp_path / "bomb.png").error)) < 200
    assert "89 million" in str(errors[0])


@pytest.mark.requirement(18)
@pytest.mark.parametrize(("depth", "times"), [(bool, 3), (np.uint16, 1)])
def test_the_largest_pictures_need_little_more_memory_than_one_of_them(
    tmp_path: Path, depth: type[np.generic], times: int
) -> None:
    Image.fromarray(np.zeros((9400, 9400), depth)).save(tmp_path / "large.png")
    assert (tmp_path / "large.png").stat().st_size < 200_000
    learner = DeepV1Learner("standard", DeepV1Settings(image_size=32, width=4), ("a", "b"), 0)
    classifier, image = make_classifier(learner), (tmp_path / "large.png").read_bytes()
    classifier.predict(np.zeros((9, 9, 3), np.uint8))
    # 253 of them for the pixels of one
    assert peak_rise_mib(lambda: classifier.predict_batch([image] * times)) < 600


@pytest.mark.requirement(19)
def test_ten_thousand_names_are_each_counted_once(tmp_path: Path) -> None:
    for label in ("ñandú", "日本", "plain"):
        (tmp_path / label).mkdir()
        for number in range(3334):
            (tmp_path / label / f"{number} ü.png").touch()
    (tmp_path / "plain" / "loop").symlink_to(tmp_path)
    (tmp_path / ".checkpoints").mkdir()
    (tmp_path / ".checkpoints" / "x.png").touch()
    index = index_dataset(DatasetFolder("set", {"set": tmp_path}))
    assert len(index.files) == len({file.path for file in index.files}) == 10_002
    assert index.classes == ["plain", "ñandú", "日本"]


@pytest.mark.requirement(19)
def test_a_class_of_one_image_and_an_empty_one_are_named(eyevsai: Eyevsai, tmp_path: Path) -> None:
    folder = write_images(tmp_path / "set", {"full": 10, "lonely": 1, "none": 0})
    done = eyevsai("train", "--data", str(folder), code=2)
    assert "lonely (1), none (0)" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_format_inside_is_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PPM")
    (tmp_path / "image.png").write_bytes(buffer.getvalue() + b"x")
    assert check_image(tmp_path / "image.png").kind == "PPM"
