"""Parsing of /invocations; tests/contract/test_invocations.py compares it with MLflow."""

from __future__ import annotations

import base64
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.invocations import FORMS, check_media_type, read_images
from eyevsai.serving.http.security_settings import LimitSettings

LIMITS = LimitSettings(max_images=5)
TEXT = base64.b64encode(b"a file").decode()
CELLS = st.sampled_from([TEXT, "x", None, 5, [[[1, 2, 3]]], {"image": TEXT}, [], [TEXT]])
VALUES = st.recursive(
    CELLS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["image", "x", "data", "columns", "index"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


def read(value: Any) -> list[Any]:
    return read_images(json.dumps(value).encode(), LIMITS)


@given(st.sampled_from([*FORMS, "other"]), VALUES)
def test_every_body_gives_images_or_a_refusal_with_a_reason(form: str, value: Any) -> None:
    try:
        images, status = read({form: value}), 200
    except RequestError as error:
        images, status = [], error.status
        assert 10 < len(error.message) < 500  # noqa: PT017  # one of both is checked
    assert status in (200, 400, 413)
    assert all(isinstance(image, bytes) or image.shape[2] == 3 for image in images)


@pytest.mark.parametrize("form", ["dataframe_records", "inputs", "instances"])
def test_number_of_records_is_limited(form: str) -> None:
    records = [{"image": TEXT}] * 5
    assert read({form: records}) == [b"a file"] * 5
    with pytest.raises(RequestError, match="has 6 images; the limit is 5") as error:
        read({form: [*records, {"image": TEXT}]})
    assert error.value.status == 413


def test_million_records_are_refused_before_they_are_decoded() -> None:
    body = b'{"inputs": [' + b'{"image": "A"},' * 999_999 + b'{"image": "A"}]}'
    with pytest.raises(RequestError, match="has 1,000,000 images") as error:
        read_images(body, LimitSettings())
    assert error.value.status == 413


def test_wrong_record_is_named() -> None:
    with pytest.raises(RequestError, match=r"Record 2 of 2: .*does not accept paths"):
        read({"dataframe_records": [{"image": TEXT}, {"image": "/etc/hostname"}]})
    with pytest.raises(RequestError, match="Record 2 of 3 has no 'image'"):
        read({"dataframe_records": [{"image": TEXT}, {"x": 1}, {"image": TEXT}]})


@pytest.mark.parametrize("media_type", ["text/csv", "application/vnd.apache.parquet", None, "x"])
def test_other_media_types_get_415_with_what_to_send(media_type: str | None) -> None:
    with pytest.raises(RequestError, match="dataframe_records") as error:
        check_media_type(media_type)
    assert error.value.status == 415


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": ["A" * 100_000, *[""] * 500]},
        {"inputs": {"image": [["A" * 100_000], *[[""]] * 500]}},
        {"instances": [{"image": "A" * 100_000}, *[{"image": ""}] * 500]},
        {"inputs": {"image": [TEXT] * 501, "x": ["A" * 100_000, *[""] * 500]}},
    ],
)
def test_a_long_text_among_short_ones_takes_its_own_memory_only(body: Any) -> None:
    """An array of texts gives each the space of the longest: here 200 MB for a body of 0.1 MB."""
    content = json.dumps(body).encode()
    tracemalloc.start()
    try:
        with pytest.raises(RequestError):
            read_images(content, LIMITS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6
