"""MLflow's scoring contract without pandas: the route /invocations.

Statuses and predictions are those of `mlflow models serve`, except for DIFFERENCES.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eyevsai.serving.http.errors import INVOCATIONS, RequestError
from eyevsai.serving.http.image_reader import predict_records, to_images
from eyevsai.serving.http.json_body import SHOWN, parse_body, parse_json
from eyevsai.serving.http.security_settings import LimitSettings
from eyevsai.serving.images import COLUMN

if TYPE_CHECKING:
    from fastapi import APIRouter

    from eyevsai.serving.http.answers import Answer
    from eyevsai.serving.http.service import PredictionService

JSON = "application/json"
TABLES = ("text/csv", "application/vnd.apache.parquet")
EXAMPLE = f'{{"dataframe_records": [{{"{COLUMN}": "BASE64"}}]}}'
# keys with which MLflow reads a body as a request to a language model
CHAT_KEYS = frozenset({"messages", "prompt", "input"})

DIFFERENCES = {
    "tables": "CSV and Parquet get 415: pandas would read them.",
    "limits": "Bodies, JSON, images and pixels beyond the limits get 400 or 413.",
    "mlflow fails": "Bodies on which MLflow fails with 500 get 400 or 415: a missing Content-Type, "
    "JSON nested thousands of levels deep, numbers of thousands of digits.",
    "misaligned": "Instances without an image get 400. MLflow leaves them out, so that predictions "
    "no longer belong to the instances of the same position.",
    "broadcast": "A single value that pandas would repeat for all rows, or whose dictionary it "
    "would read as a column, gets 400.",
    "chat": "Bodies with messages, prompt or input get 400, even if they contain an image.",
}


def make_router(service: PredictionService, limits: LimitSettings) -> APIRouter:
    """Return the route /invocations of a server."""
    from fastapi import APIRouter, Request, Response

    from eyevsai.serving.http.app import answer_headers, read_key

    router = APIRouter()

    async def invocations(request: Request) -> Response:
        """Predict images in JSON, as MLflow's scoring server does."""
        check_media_type(request.headers.get("content-type"))
        images = await parse_body(lambda body: read_images(body, limits), await request.body())
        answers = await predict_records(service, images, key=read_key(request))
        headers = answer_headers(answers[0]) if len(answers) == 1 else None
        return Response(render_invocations(answers), media_type=JSON, headers=headers)

    # FastAPI reads the annotations of a function, which are local names here
    invocations.__annotations__ = {"request": Request, "return": Response}
    router.add_api_route(
        INVOCATIONS, invocations, methods=["POST"], openapi_extra=DOC, response_class=Response
    )
    return router


DOC: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {JSON: {"example": {"dataframe_records": [{COLUMN: "BASE64"}]}}},
    }
}


def check_media_type(content_type: str | None) -> None:
    """Check the header Content-Type.

    Raises:
        RequestError: it is not JSON in UTF-8 (415).
    """
    if content_type is None:
        raise _unsupported(f"The header Content-Type is missing. Send {JSON}")
    media_type, *pairs = (part.strip() for part in content_type.split(";"))
    parameters = {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
    if parameters.pop("charset", "utf-8").lower() != "utf-8":
        raise _unsupported("The body must be UTF-8. Send the header without another charset")
    if parameters:
        raise _unsupported(f"{content_type[:SHOWN]!r} has unknown parameters. Send {JSON}")
    if media_type in TABLES:
        raise _unsupported(f"{media_type} is not read by this server. Send {JSON}")
    if media_type != JSON:
        raise _unsupported(f"{content_type[:SHOWN]!r} is not supported. Send {JSON}")


def read_images(body: bytes, limits: LimitSettings) -> list[Any]:
    """Return the images of a JSON body as the bytes of files or arrays, without decoding them.

    Raises:
        RequestError: the body has none of MLflow's forms (400), or too many images (413).
    """
    value = parse_json(body, allows_nan=True)
    if not isinstance(value, dict):
        raise _bad(f"The body is not a JSON object. Send {EXAMPLE}.")
    if chat := sorted(CHAT_KEYS & value.keys()):
        raise _bad(f"{chat[0]!r} belongs to language models. Send {EXAMPLE}.")
    forms = [name for name in FORMS if name in value]
    if len(forms) != 1:
        raise _bad(
            f"The body has {len(forms)} of the fields {', '.join(FORMS)}; send exactly one, such "
            f"as {EXAMPLE}."
        )
    return to_images(FORMS[forms[0]](value[forms[0]]), limits)


def render_invocations(answers: Sequence[Answer]) -> bytes:
    """Return the body of a response, as the version's pyfunc model and MLflow write it."""
    predictions = [
        {
            "label": answer.best,
            "probability": answer.probability,
            "probabilities": dict(zip(answer.classes, map(float, answer.row), strict=True)),
        }
        for answer in answers
    ]
    return json.dumps({"predictions": predictions}).encode()


def _read_records(records: Any) -> list[Any]:
    """Read `dataframe_records`: a list of objects."""
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        raise _bad("dataframe_records must be a list of objects.")
    return _column(records)


def _read_split(table: Any) -> list[Any]:
    """Read `dataframe_split`: columns, data by rows, and an optional index."""
    if not isinstance(table, dict) or "data" not in table:
        raise _bad("dataframe_split must be an object with the fields columns and data.")
    if unknown := sorted(table.keys() - {"columns", "data", "index"}):
        raise _bad(f"dataframe_split has the unknown field {unknown[0][:SHOWN]!r}.")
    data, columns, index = table["data"], table.get("columns"), table.get("index")
    if data is None and index in (None, []):
        data = []
    if isinstance(data, dict):
        data, columns = _transpose(data, columns)
    if not isinstance(data, list) or not isinstance(columns, list):
        raise _bad("The fields columns and data of dataframe_split must be lists.")
    if index is not None and (not isinstance(index, list) or len(index) != len(data)):
        raise _bad("The field index of dataframe_split must be a list as long as data.")
    if any(isinstance(name, list | dict) for name in columns) or columns.count(COLUMN) != 1:
        raise _no_column(columns)
    if data and isinstance(data[0], dict):
        return _column([row for row in data if isinstance(row, dict)])
    if len(columns) == 1 and data and not isinstance(data[0], list):
        data = [[value] for value in data]
    if not all(isinstance(row, list) for row in data):
        raise _bad("Each row of data must be a list of values, one per column.")
    if data and max(map(len, data)) != len(columns):
        raise _bad(f"The rows of data must have {len(columns)} values, one per column.")
    return _column([dict(zip(columns, row, strict=False)) for row in data], columns)


def _transpose(data: Mapping[str, Any], columns: Any) -> tuple[list[Any], Any]:
    """Return the rows and columns of a table whose columns are the values of an object."""
    names = list(data)
    if columns is not None and (not isinstance(columns, list) or COLUMN not in columns):
        raise _no_column(columns)
    if not all(isinstance(values, list) for values in data.values()):
        raise _bad("The columns in data must be lists.")
    if len({len(values) for values in data.values()}) > 1:
        raise _bad("The columns in data must have the same length.")
    return [list(row) for row in zip(*data.values(), strict=True)], names


def _read_inputs(inputs: Any) -> list[Any]:
    """Read `inputs`: one image, a list of images, or an object or objects with the column."""
    if isinstance(inputs, list):
        if inputs and all(isinstance(each, dict) for each in inputs):
            return _column(inputs)
        if any(isinstance(each, dict) for each in inputs):
            raise _bad("The list mixes objects and other values. Send objects only.")
        return _one_or_many(inputs)
    if not isinstance(inputs, dict):
        raise _bad(f"One value is no table. Send {EXAMPLE}.")
    if COLUMN not in inputs:
        raise _no_column(list(inputs))
    value = inputs[COLUMN]
    others = [_to_array(values) for name, values in inputs.items() if name != COLUMN]
    if not isinstance(value, list):
        if others:
            raise _bad("A single image needs an object without further columns.")
        return [value]
    lengths = {len(value), *(len(each) if each.ndim else -1 for each in others)}
    if len(lengths) > 1:
        raise _bad("The columns must have the same length.")
    return value if others else _one_or_many(value)


def _read_instances(instances: Any) -> list[Any]:
    """Read `instances`: objects with the column, whose values MLflow makes arrays of."""
    is_table = isinstance(instances, list) and instances and isinstance(instances[0], dict)
    if not is_table:
        return _read_inputs(instances)
    if not all(isinstance(each, dict) for each in instances):
        raise _bad("The list mixes objects and other values. Send objects only.")
    cells = _column(instances)
    for name in dict.fromkeys(name for each in instances for name in each):
        values = [each[name] for each in instances if name in each]
        if len(_to_array(values)) != len(cells):
            raise _bad("The columns must have the same length.")
    return cells


def _one_or_many(values: list[Any]) -> list[Any]:
    """Return the images of a list. MLflow reads a list of texts as one cell, which is no image."""
    return [values] if all(isinstance(each, str) for each in values) else values


def _column(records: Sequence[Mapping[str, Any]], columns: Sequence[Any] = ()) -> list[Any]:
    """Return the images of records; without records, `columns` must have the column."""
    if COLUMN not in columns and not any(COLUMN in record for record in records):
        raise _no_column(list(records[0]) if records else [])
    for number, record in enumerate(records, 1):
        if COLUMN not in record:
            raise _bad(f"Record {number} of {len(records)} has no {COLUMN!r}.")
    return [record[COLUMN] for record in records]


def _to_array(values: Any) -> Any:
    """Return values as an array of objects: an array of texts would need far more memory.

    Raises:
        RequestError: lists in them have unequal lengths (400).
    """
    array = np.array(values, dtype=object)
    if any(isinstance(each, list) for each in array.flat):
        raise _bad("The values of a column are lists of unequal lengths.")
    return array


def _no_column(columns: Any) -> RequestError:
    names = json.dumps(columns)[:SHOWN]
    return _bad(f"The input needs one column {COLUMN!r}; it has {names}. Send {EXAMPLE}.")


def _bad(message: str) -> RequestError:
    return RequestError(400, message, reason="json")


def _unsupported(message: str) -> RequestError:
    return RequestError(415, f"{message}, for example {EXAMPLE}.", reason="media_type")


FORMS: dict[str, Callable[[Any], list[Any]]] = {
    "dataframe_split": _read_split,
    "dataframe_records": _read_records,
    "inputs": _read_inputs,
    "instances": _read_instances,
}
