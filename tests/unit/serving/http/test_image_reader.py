from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.image_reader import ImageReader, to_images
from eyevsai.serving.http.security_settings import LimitSettings
from tests.unit.serving.http.conftest import make_image


def test_reader_counts_pixels_in_flight() -> None:
    limits = LimitSettings(max_megapixels=1, max_megapixels_in_flight=1.5)
    reader = ImageReader(limits)
    assert reader._budget is not None
    with reader._budget.reserve(1.4e6):
        assert reader.read_one(make_image()).shape[2] == 3
        stream = io.BytesIO()
        Image.new("L", (900, 900)).save(stream, "PNG")
        with pytest.raises(RequestError) as error:
            reader.read_one(stream.getvalue())
        assert error.value.status == 503
    assert reader.read_one(stream.getvalue()).shape == (900, 900, 3)
    assert ImageReader(limits, 1)._budget is None


@pytest.mark.parametrize("size", [(1000, 1001), (65_500, 16), (13_400, 13_300)])
def test_image_beyond_the_pixels_of_a_request_gets_413(size: tuple[int, int]) -> None:
    stream = io.BytesIO()
    Image.new("1", size).save(stream, "PNG")
    reader = ImageReader(LimitSettings(max_megapixels=1))
    with pytest.raises(RequestError) as error:
        reader.read_one(stream.getvalue())
    assert (error.value.status, error.value.reason) == (413, "pixels")


@pytest.mark.parametrize(
    "cell", ["/etc/hostname", "file:///etc/hostname", "http://127.0.0.1:1/x.png", "../x", "\0", ""]
)
def test_paths_and_urls_are_never_opened(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.open", lambda *arguments: pytest.fail("a file was opened"))
    with pytest.raises(RequestError) as error:
        ImageReader(LimitSettings()).read_one(cell)
    assert error.value.status == 400


def test_pixels_in_base64_are_counted_too() -> None:
    stream = io.BytesIO()
    Image.new("L", (900, 900)).save(stream, "PNG")
    content = base64.b64encode(stream.getvalue())
    limits = LimitSettings(max_megapixels=1, max_megapixels_in_flight=1.5)
    reader = ImageReader(limits)
    assert reader._budget is not None
    assert reader.read_one(content).shape == (900, 900, 3)
    with reader._budget.reserve(1.4e6), pytest.raises(RequestError) as error:
        reader.read_one(content)
    assert error.value.status == 503
    with pytest.raises(RequestError) as error:
        to_images([content, content], limits)
    assert (error.value.status, error.value.reason) == (413, "pixels")
