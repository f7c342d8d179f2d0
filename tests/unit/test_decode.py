from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyevsai.data.decode import UndecodableImage, decode

GRADIENT = np.arange(12 * 8 * 3, dtype=np.uint8).reshape(12, 8, 3) % 251


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


# How a camera that was held so stores the picture (EXIF 2.32, tag Orientation).
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize(("orientation", "how"), STORED.items())
def test_exif_orientation_is_undone(orientation: int, how: Image.Transpose | None) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(GRADIENT)
    stored = image if how is None else image.transpose(how)
    np.testing.assert_array_equal(decode(encode(stored, exif=exif)), GRADIENT)


def test_modes_become_one_rgb_array() -> None:
    grey = GRADIENT[..., 0]
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey)))[..., 1], grey)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    np.testing.assert_array_equal(decode(encode(deep))[..., 2], grey)
    bits = Image.fromarray(grey > 100)
    np.testing.assert_array_equal(decode(encode(bits))[..., 0], np.where(grey > 100, 255, 0))
    assert decode(encode(Image.new("CMYK", (4, 5), (0, 255, 255, 0)), "JPEG")).shape == (5, 4, 3)


def test_alpha_lies_over_white() -> None:
    clear = Image.new("RGBA", (3, 2), (10, 20, 30, 0))
    assert (decode(encode(clear)) == 255).all()
    palette = Image.new("P", (3, 2), 0)
    palette.putpalette([200, 0, 0] * 256)
    assert (decode(encode(palette, transparency=0)) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F"])
def test_a_large_image_is_converted_in_strips_of_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 37, 3), dtype=np.uint8))
    image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else image
    data = encode(image.convert(mode), "TIFF")
    whole = decode(data)
    monkeypatch.setattr("eyevsai.data.decode.STRIP_PIXELS", 300)  # 8 rows; of the last strip 5 are left
    np.testing.assert_array_equal(decode(data), whole)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n torn"])
def test_what_does_not_decode_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "torn.png"
    path.write_bytes(data)
    with pytest.raises(UndecodableImage, match=r"torn\.png"):
        decode(path)


def test_a_torn_jpeg_is_refused() -> None:
    data = encode(Image.fromarray(np.zeros((64, 64, 3), np.uint8)), "JPEG")
    with pytest.raises(UndecodableImage):
        decode(data[: len(data) // 2])


@pytest.mark.requirement(18)
def test_a_bomb_is_refused_by_its_size() -> None:
    with pytest.raises(UndecodableImage, match="89 million"):
        decode(encode(Image.new("1", (10_000, 9_000))))
