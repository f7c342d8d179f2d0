from __future__ import annotations

import io
import runpy
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eyevsai.data.decode import Depth, ImageDecodeError, Range, decode, decode_fully, find_depth

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
def test_a_large_image_is_converted_in_strips_of_the_same_pixels(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (61, 37, 3), dtype=np.uint8))
    image = (
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        if mode == "I;16"
        else image
    )
    data = encode(image.convert(mode), "TIFF")
    whole = decode(data)
    # 8 rows; of the last strip 5 are left
    monkeypatch.setattr("eyevsai.data.decode.STRIP_PIXELS", 300)
    np.testing.assert_array_equal(decode(data), whole)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n torn"])
def test_what_does_not_decode_is_named(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "torn.png"
    path.write_bytes(data)
    with pytest.raises(ImageDecodeError, match=r"torn\.png"):
        decode(path)


def test_a_torn_jpeg_is_refused() -> None:
    data = encode(Image.fromarray(np.zeros((64, 64, 3), np.uint8)), "JPEG")
    with pytest.raises(ImageDecodeError):
        decode(data[: len(data) // 2])


@pytest.mark.requirement(18)
def test_a_bomb_is_refused_by_its_size() -> None:
    with pytest.raises(ImageDecodeError, match="89 million"):
        decode(encode(Image.new("1", (10_000, 9_000))))


def exif_block(tag: int, kind: int, value: bytes) -> bytes:
    """An EXIF block with orientation 6 and one more entry, whose value may be nonsense (EXIF 2.32,
    section 4.6.2).
    """
    count, offset = len(value) // {3: 2, 5: 8, 10: 8}[kind], 8 + 2 + 24 + 4
    turn = struct.pack("<HHI", 0x112, 3, 1) + struct.pack("<H", 6).ljust(4, b"\0")
    other = struct.pack("<HHII", tag, kind, count, offset)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turn + other + struct.pack("<I", 0) + value


@pytest.mark.parametrize(
    "block",
    [
        exif_block(0x11A, 10, struct.pack("<ii", -1, 0)),
        exif_block(0x11A, 5, struct.pack("<II", 0, 0)),
        exif_block(0x8769, 5, b"\xff" * 8),
        exif_block(0x9286, 3, b"\xff" * 6),
    ],
    ids=["negative rational", "zero over zero", "broken pointer", "garbage"],
)
def test_an_image_with_a_broken_exif_block_is_turned(block: bytes) -> None:
    upright = Image.fromarray(GRADIENT).resize((80, 120))
    stored = encode(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95)
    marker = b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block
    found = decode(stored[:2] + marker + stored[2:])
    assert found.shape == (120, 80, 3)
    assert np.abs(found.astype(int) - np.asarray(upright)).mean() < 10


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize(
    "block", [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"]
)
def test_an_image_whose_exif_block_is_nonsense_is_decoded(kind: str, block: bytes) -> None:
    assert decode(encode(Image.fromarray(GRADIENT), kind, exif=block)).shape == GRADIENT.shape


def test_no_program_is_started_for_a_file() -> None:
    with pytest.raises(ImageDecodeError, match="not an image in a known format"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


def grey(values: object, dtype: object) -> bytes:
    return encode(Image.fromarray(np.asarray(values, dtype=dtype)), "TIFF")


@pytest.mark.parametrize(
    ("tops", "white"),
    [
        ([255, 100], 255),
        ([256, 255], 1023),
        ([1023], 1023),
        ([1024], 4095),
        ([4095, 30], 4095),
        ([16383], 16383),
        ([16384], 65535),
        ([65535], 65535),
        ([], 65535),
    ],
)
def test_the_range_of_whole_numbers_is_that_of_the_dataset(tops: list[int], white: float) -> None:
    assert find_depth(Range(top) for top in tops).integer_top == white


def test_every_image_is_scaled_by_the_range_of_the_dataset() -> None:
    bright, dark = grey([[0, 4095]], np.uint16), grey([[0, 255]], np.uint16)
    depth = find_depth(decode_fully(each).range for each in (bright, dark))
    assert depth.integer_top == 4095
    assert decode(bright, depth)[0, 1, 0] == 255
    assert decode(dark, depth)[0, 1, 0] == 16
    assert decode(grey([[0, 256]], np.uint16), depth)[0, 1, 0] >= decode(dark, depth)[0, 1, 0]


def test_a_stray_value_of_a_float_image_does_not_change_its_range() -> None:
    levels = np.linspace(0, 1, 10_000, dtype=np.float32).reshape(100, 100)
    expected = decode(grey(levels, np.float32), Depth())
    for stray in (1.0001, np.nan, np.inf):
        odd = levels.copy()
        odd[0, 0] = stray
        found = decode_fully(grey(odd, np.float32))
        assert find_depth([found.range]).float_top == 1.0
        assert np.abs(found.pixels.astype(int) - expected)[1:].max() == 0
    assert find_depth([decode_fully(grey(levels * 255, np.float32)).range]).float_top == 255.0


def test_dark_images_that_differ_have_different_digests() -> None:
    one, other = (decode_fully(grey([[0, value]], np.uint16)) for value in (300, 301))
    assert (one.pixels == other.pixels).all()
    assert one.levels != other.levels


AWKWARD = {
    "deep grey": grey(np.arange(0, 60_000, 1000).reshape(6, 10), np.uint16),
    "twelve bits": grey(np.arange(0, 4000, 100).reshape(4, 10), np.uint16),
    "float": grey(np.linspace(0, 1, 24).reshape(4, 6), np.float32),
    "float with a hole": grey([[0, np.nan, 0.5], [1.0001, np.inf, -1]], np.float32),
    "int32": grey(np.arange(0, 60_000, 1000).reshape(6, 10), np.int32),
    "alpha": encode(Image.new("RGBA", (5, 4), (10, 20, 30, 100))),
    "grey alpha": encode(Image.new("LA", (5, 4), (9, 99))),
    "palette": encode(Image.fromarray(GRADIENT).convert("P")),
    "cmyk": encode(Image.new("CMYK", (4, 5), 9), "JPEG"),
    "bits": encode(Image.fromarray(GRADIENT[..., 0] > 100)),
    "grey": encode(Image.fromarray(GRADIENT[..., 0])),
    "broken exif": encode(Image.fromarray(GRADIENT), exif=b"Exif\0\0nonsense"),
    "turned": encode(
        Image.fromarray(GRADIENT), exif=b"Exif\0\0" + exif_block(0x11A, 5, bytes(8))[6:]
    ),
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("depth", [Depth(), Depth(4095.0, 255.0)])
def test_exported_examples_decode_as_the_product_does(name: str, depth: Depth) -> None:
    from eyevsai import formats

    example = runpy.run_path(str(Path(formats.__file__).parent / "examples" / "decode.py"))
    found = example["decode"](io.BytesIO(AWKWARD[name]), vars(depth))
    np.testing.assert_array_equal(found, decode(AWKWARD[name], depth))


def test_a_deep_tiff_in_which_0_is_white_is_turned() -> None:
    values = np.arange(0, 60_000, 1000, dtype=np.uint16).reshape(6, 10)
    white = encode(Image.fromarray(values), "TIFF", tiffinfo={0x0106: 0})
    if Image.open(io.BytesIO(white)).tag_v2[0x0106] != 0:
        white = white.replace(
            struct.pack("<HHIHH", 0x0106, 3, 1, 1, 0), struct.pack("<HHIHH", 0x0106, 3, 1, 0, 0)
        )
    found = decode(white, Depth())
    np.testing.assert_array_equal(found, 255 - decode(grey(values, np.uint16), Depth()))


def test_values_below_zero_are_known() -> None:
    assert decode_fully(grey([[-5.0, 1.0]], np.float32)).range.low == -5.0
