"""Bodies for /invocations, good and bad, for the comparison with MLflow's scoring server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tests.conftest import draw_image

JSON = "application/json"


@dataclass(frozen=True)
class Body:
    """A request to /invocations.

    Attributes:
        name: short description.
        content: the body.
        content_type: header Content-Type; None to send none.
        difference: key of DIFFERENCES if this server answers another way than MLflow, else "".
    """

    name: str
    content: bytes
    content_type: str | None = JSON
    difference: str = ""


def encode(number: int = 0, file_format: str = "PNG", size: tuple[int, int] = (20, 16)) -> str:
    """Return an image file in base64."""
    stream = io.BytesIO()
    Image.fromarray(draw_image(1, number, *size)).save(stream, file_format)
    return base64.b64encode(stream.getvalue()).decode()


A, B = encode(0), encode(1)
PIXELS: Any = draw_image(0, 0, 6, 5).tolist()
OTHER: Any = draw_image(2, 1, 6, 5).tolist()
SMALL: Any = draw_image(1, 1, 3, 4).tolist()

CELLS: dict[str, Any] = {
    "base64": A,
    "jpeg": encode(2, "JPEG"),
    "gif": encode(2, "GIF"),
    "bmp": encode(2, "BMP"),
    "lines": base64.encodebytes(base64.b64decode(A)).decode(),
    "spaces": f"  {A}\t\n",
    "unpadded": A.rstrip("="),
    "url_safe": A.replace("+", "-").replace("/", "_"),
    "data_url": f"data:image/png;base64,{A}",
    "data_url_upper": f"DATA:image/png;BASE64,{A}",
    "byte_order_mark": "\ufeff" + A,
    "pixels": PIXELS,
    "pixels_small": SMALL,
    "pixels_float": np.array(PIXELS, float).tolist(),
    "one_pixel": [[[1, 2, 3]]],
    "empty_text": "",
    "text": "no image",
    "base64_of_text": base64.b64encode(b"no image at all").decode(),
    "truncated": A[: len(A) // 2 // 4 * 4],
    "one_letter": "A",
    "not_ascii": "ä" * 8,
    "null_character": "\0",
    "path": "/etc/hostname",
    "path_parent": "../../etc/passwd",
    "file_url": "file:///etc/hostname",
    "http_url": "http://127.0.0.1:1/image.png",
    "data_url_plain": "data:text/plain,hello",
    "data_url_two_pads": f"data:;base64,{A}===",
    "null": None,
    "true": True,
    "zero": 0,
    "number": 1.5,
    "nan": float("nan"),
    "infinity": float("inf"),
    "empty_list": [],
    "nested_empty": [[]],
    "ragged": [[[1, 2, 3], [1, 2, 3]], [[1, 2, 3]]],
    "grey": [[1, 2], [3, 4]],
    "four_channels": [[[1, 2, 3, 4]]],
    "five_levels": [[[[[1, 2, 3]]]]],
    "fraction": [[[1.5, 2, 3]]],
    "negative": [[[-1, 2, 3]]],
    "above": [[[256, 2, 3]]],
    "huge": [[[10**30, 2, 3]]],
    "nan_pixel": [[[float("nan"), 2, 3]]],
    "texts_as_pixels": [[["1", "2", "3"]]],
    "booleans": [[[True, False, True]]],
    "list_of_text": [A],
    "object": {"b64": A},
    "object_empty": {},
}


def make_bodies() -> list[Body]:
    """Return all bodies; the names differ."""
    bodies = [*_cells(), *_tables(), *_top_level(), *_media_types()]
    assert len({body.name for body in bodies}) == len(bodies)
    return bodies


def _cells() -> Iterator[Body]:
    for name, cell in CELLS.items():
        yield _body(f"cell/records/{name}", {"dataframe_records": [{"image": cell}]})
        split = {"columns": ["image"], "data": [[cell]]}
        yield _body(f"cell/split/{name}", {"dataframe_split": split})
        broadcast = "broadcast" if isinstance(cell, dict) else ""
        yield _body(f"cell/inputs/{name}", {"inputs": {"image": cell}}, broadcast)
        yield _body(f"cell/inputs_records/{name}", {"inputs": [{"image": cell}]})
        yield _body(f"cell/instances/{name}", {"instances": [{"image": cell}]})
        yield _body(f"cell/second/{name}", {"dataframe_records": [{"image": A}, {"image": cell}]})


def _tables() -> Iterator[Body]:
    two = [{"image": A}, {"image": B}]
    yield _body("records/two", {"dataframe_records": two})
    yield _body("records/other_columns", {"dataframe_records": [{"image": A, "x": [1]}, two[1]]})
    yield _body(
        "records/pixels_of_two_sizes", {"dataframe_records": [{"image": PIXELS}, {"image": SMALL}]}
    )
    yield _body("records/empty", {"dataframe_records": []})
    for name, value in {
        "object": {"image": A},
        "text": A,
        "null": None,
        "texts": [A],
        "lists": [[A]],
        "mixed": [{"image": A}, "x"],
        "mixed_first": ["x", {"image": A}],
        "null_record": [{"image": A}, None],
        "empty_record": [{}],
        "no_column": [{"picture": A}],
        "upper": [{"Image": A}],
        "missing_in_second": [{"image": A}, {"x": 1}],
        "missing_in_first": [{}, {"image": A}],
    }.items():
        yield _body(f"records/{name}", {"dataframe_records": value})
    for name, table in {
        "two": {"columns": ["image"], "data": [[A], [B]]},
        "index": {"columns": ["image"], "data": [[A], [B]], "index": [7, 9]},
        "index_texts": {"columns": ["image"], "data": [[A]], "index": ["a"]},
        "index_null": {"columns": ["image"], "data": [[A]], "index": None},
        "index_short": {"columns": ["image"], "data": [[A], [B]], "index": [0]},
        "index_long": {"columns": ["image"], "data": [[A], [B]], "index": [0, 1, 2]},
        "index_text": {"columns": ["image"], "data": [[A]], "index": "a"},
        "index_without_data": {"columns": ["image"], "data": [], "index": [0]},
        "second_column": {"columns": ["x", "image"], "data": [[1, A], [None, B]]},
        "no_rows": {"columns": ["image"], "data": []},
        "no_rows_other": {"columns": ["x"], "data": []},
        "null_data": {"columns": ["image"], "data": None},
        "empty_row": {"columns": ["image"], "data": [[]]},
        "short_row": {"columns": ["image", "x"], "data": [[A, 1], [B]]},
        "short_row_image": {"columns": ["x", "image"], "data": [[1, A], [2]]},
        "long_row": {"columns": ["image"], "data": [[A, B]]},
        "scalars": {"columns": ["image"], "data": [A, B]},
        "scalar_numbers": {"columns": ["image"], "data": [1, 2]},
        "records": {"columns": ["image"], "data": [{"image": A}]},
        "records_other": {"columns": ["image"], "data": [{"x": A}]},
        "columns_of_lists": {"data": {"image": [A, B]}},
        "columns_of_lists_named": {"columns": ["image"], "data": {"image": [A], "x": [1]}},
        "columns_of_lists_unequal": {"data": {"image": [A], "x": [1, 2]}},
        "columns_of_lists_other": {"columns": ["x"], "data": {"image": [A]}},
        "columns_missing": {"data": [[A]]},
        "columns_null": {"columns": None, "data": [[A]]},
        "columns_text": {"columns": "image", "data": [[A]]},
        "columns_nested": {"columns": [["image"]], "data": [[A]]},
        "columns_empty": {"columns": [], "data": [[A]]},
        "columns_twice": {"columns": ["image", "image"], "data": [[A, B]]},
        "columns_mixed": {"columns": ["image", 1, None], "data": [[A, 1, 2]]},
        "data_missing": {"columns": ["image"]},
        "data_text": {"columns": ["image"], "data": A},
        "data_number": {"columns": ["image"], "data": 5},
        "unknown_field": {"columns": ["image"], "data": [[A]], "x": 1},
        "empty": {},
    }.items():
        yield _body(f"split/{name}", {"dataframe_split": table})
    repeated = {"columns": ["image"], "data": [[A]], "index": [0, 1]}
    yield _body("split/repeated", {"dataframe_split": repeated}, "broadcast")
    for name, value in {"list": [[A]], "text": A, "null": None}.items():
        yield _body(f"split/{name}", {"dataframe_split": value})
    for form in ("inputs", "instances"):
        yield from _tensors(form)
    yield from _instances()


def _tensors(form: str) -> Iterator[Body]:
    """Yield what `inputs` and `instances` have in common."""
    for name, value in {
        "two_records": [{"image": A}, {"image": B}],
        "pixels_list": [PIXELS, OTHER],
        "pixels_list_of_two_sizes": [PIXELS, SMALL],
        "one_image_as_list": PIXELS,
        "text_and_pixels": [A, PIXELS],
        "texts": [A, B],
        "text": A,
        "number": 5,
        "null": None,
        "true": True,
        "empty_list": [],
        "empty_object": {},
        "numbers": [1, 2],
        "nulls": [None],
        "mixed": [A, {"image": B}],
        "mixed_lists": [[1], {"image": B}],
        "no_column": [{"x": A}],
        "column_no": {"x": [A]},
        "column_texts": {"image": [A, B]},
        "column_pixels": {"image": [PIXELS, OTHER]},
        "column_mixed": {"image": [A, PIXELS]},
        "column_empty": {"image": []},
        "column_with_another": {"image": [A, B], "x": [1, 2]},
        "column_with_texts": {"image": [A], "x": ["a"]},
        "column_with_matrix": {"image": [A], "x": [[1, 2]]},
        "column_unequal": {"image": [A, B], "x": [1]},
        "both_single": {"image": A, "x": "a"},
        "column_ragged_other": {"image": [A, B], "x": [[1], [1, 2]]},
    }.items():
        yield _body(f"{form}/{name}", {form: value})
    for name, value in {
        "repeated": {"image": A, "x": [1, 2]},
        "repeated_other": {"image": [PIXELS], "x": 1},
        "dictionary": {"image": {"a": A}},
    }.items():
        yield _body(f"{form}/{name}", {form: value}, "broadcast")


def _instances() -> Iterator[Body]:
    for name, value in {
        "other_columns": [{"image": A, "x": 1}, {"image": B, "x": 2}],
        "ragged_other": [{"image": A, "x": [1]}, {"image": B, "x": [1, 2]}],
        "matrix_other": [{"image": A, "x": [1, 2]}, {"image": B, "x": [1, 2]}],
        "other_missing": [{"image": A, "x": 1}, {"image": B}],
        "first_record_then_text": [{"image": A}, "x"],
        "first_record_then_null": [{"image": A}, None],
        "text_and_pixels_records": [{"image": A}, {"image": PIXELS}],
        "pixels_of_two_sizes": [{"image": PIXELS}, {"image": SMALL}],
        "pixels_of_one_size": [{"image": PIXELS}, {"image": OTHER}],
        "text_and_null": [{"image": A}, {"image": None}],
        "text_and_number": [{"image": A}, {"image": 5}],
        "empty_record": [{}],
        "column_in_no_record": [{"x": 1}, {"x": 2}],
    }.items():
        yield _body(f"instances/{name}", {"instances": value})
    for name, records in {
        "second_empty": [{"image": A}, {}],
        "first_empty": [{}, {"image": A}],
        "second_other": [{"image": A}, {"x": 1}],
    }.items():
        yield _body(f"instances/{name}", {"instances": records}, "misaligned")


def _top_level() -> Iterator[Body]:
    good = {"dataframe_records": [{"image": A}]}
    text = json.dumps(good)
    for name, content in {
        "empty": b"",
        "space": b" \n",
        "text": b"no json",
        "json_text": b'"text"',
        "json_number": b"5",
        "json_null": b"null",
        "json_list": b"[]",
        "json_list_of_forms": json.dumps([good]).encode(),
        "unclosed": text[:-1].encode(),
        "two_values": f"{text} {text}".encode(),
        "single_quotes": text.replace('"', "'").encode(),
        "trailing_comma": f"{text[:-1]},}}".encode(),
        "comment": f"// x\n{text}".encode(),
        "latin_1": '{"x": "ä"}'.encode("latin-1"),
        "utf_16": text.encode("utf-16"),
        "utf_32": text.encode("utf-32"),
        "byte_order_mark": text.encode("utf-8-sig"),
        "spaces_around": f"\n\n {text}\t".encode(),
        "escaped_key": text.replace("image", "\\u0069mage").encode(),
        "lone_surrogate": text.replace(A, "\\ud800").encode(),
        "twice_the_same_key": b'{"inputs": 1, "inputs": {"image": "%s"}}' % A.encode(),
        "null_byte": b"\0",
        "control_character": b'{"dataframe_records": [{"image": "\x01"}]}',
        "pickle": b"\x80\x04K\x01.",
    }.items():
        yield Body(f"top/{name}", content)
    for name, value in {
        "no_form": {"image": A},
        "empty_object": {},
        "other_form": {"data": [[A]]},
        "two_forms": {"inputs": {"image": A}, **good},
        "null_forms": {"inputs": None, "instances": None},
        "params": {**good, "params": {"x": 1}},
        "params_list": {**good, "params": [1]},
        "params_null": {**good, "params": None},
        "extra_field": {**good, "x": 1},
        "signature_name": {"signature_name": "x", "instances": [{"image": A}]},
        "upper_form": {"DATAFRAME_RECORDS": good["dataframe_records"]},
        "messages": {"messages": []},
        "prompt_and_form": {"prompt": "x", **good},
    }.items():
        yield _body(f"top/{name}", value)
    yield _body("top/input_with_image", {"input": "x", "image": A}, "chat")
    deep = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield Body("top/deep", deep, difference="mlflow fails")
    digits = b'{"inputs": ' + b"9" * 5000 + b"}"
    yield Body("top/digits", digits, difference="mlflow fails")


def _media_types() -> Iterator[Body]:
    content = json.dumps({"dataframe_records": [{"image": A}]}).encode()
    for content_type in (
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        " application/json ",
        "application/json; charset=latin-1",
        'application/json; charset="utf-8"',
        "application/json; charset=utf-8; x=1",
        "application/json; version=2",
        "application/json;",
        "Application/JSON",
        "text/plain",
        "image/png",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "x",
        "text/csv; charset=latin-1",
    ):
        yield Body(f"type/{content_type}", content, content_type)
    yield Body("type/missing", content, None, "mlflow fails")
    yield Body("type/empty", content, "")
    yield Body("type/csv", f"image\n{A}\n".encode(), "text/csv", "tables")
    yield Body("type/parquet", b"PAR1", "application/vnd.apache.parquet", "tables")


def _body(name: str, value: Any, difference: str = "") -> Body:
    return Body(name, json.dumps(value).encode(), difference=difference)
