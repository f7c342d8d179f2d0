from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.serving.http import json_body
from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.json_body import MAX_DEPTH, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


def depth_of(value: object) -> int:
    children = value.values() if isinstance(value, dict) else value
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth_of, children), default=0)  # type: ignore[arg-type]


@given(VALUES, st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]))
def test_value_is_that_of_the_json_module(value: object, is_ascii: bool, encoding: str) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii).encode(encoding)
    if depth_of(value) > MAX_DEPTH:
        with pytest.raises(RequestError, match="nested"):
            parse_json(body)
    else:
        assert parse_json(body) == value


@given(st.binary(max_size=50) | st.text(alphabet='[]{},:"\\ntrue01 ').map(str.encode))
def test_bytes_are_a_value_or_refused_with_400(body: bytes) -> None:
    try:
        value, status = parse_json(body), 200
    except RequestError as error:
        value, status = None, error.status
    assert status in (200, 400)
    if status == 200:
        assert value == json.loads(body)


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 500, 100_000, 3_000_000])
@pytest.mark.parametrize("ends", ["[]", "{}"])
def test_depth_is_limited_before_the_value_is_made(depth: int, ends: str) -> None:
    opening = '{"a":' if ends == "{}" else "["
    body = (opening * depth + "1" + ends[1] * depth).encode()
    with pytest.raises(RequestError, match=r"nested more|more than 3,000,000 lists"):
        parse_json(body)


def test_brackets_in_texts_do_not_count() -> None:
    text = "[{" * 100 + '\\"[['
    assert parse_json(json.dumps({"label": text}).encode()) == {"label": text}


def test_number_of_lists_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_body, "MAX_CONTAINERS", 100)
    parse_json(json.dumps([[1]] * 99).encode())
    with pytest.raises(RequestError, match="Send images as base64"):
        parse_json(json.dumps([[1]] * 101).encode())


@pytest.mark.parametrize("body", [b"NaN", b"[Infinity]", b'{"a": -Infinity}'])
def test_nan_is_json_only_where_it_is_allowed(body: bytes) -> None:
    with pytest.raises(RequestError, match="is not a JSON number"):
        parse_json(body)
    parse_json(body, allows_nan=True)


def test_long_numbers_are_refused() -> None:
    with pytest.raises(RequestError) as error:
        parse_json(b"[" + b"9" * 5000 + b"]")
    assert error.value.status == 400


def test_check_of_a_long_text_takes_no_memory() -> None:
    """It took 1.1 GB, and 2 s of the event loop, for an image of 10 MB in base64."""
    body = json.dumps({"image": "A" * 1_000_000}).encode()
    tracemalloc.start()
    try:
        parse_json(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6
