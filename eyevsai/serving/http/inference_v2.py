"""Open Inference Protocol v2: metadata, readiness and inference of the loaded versions.

An inference request has one input, `image`: BYTES of image files (base64 in JSON), or UINT8 pixels.
Tensors are JSON, or binary after the JSON (Triton's binary tensor extension).
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from eyevsai.core.version import VERSION
from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.image_reader import predict_records, to_images
from eyevsai.serving.http.json_body import SHOWN, parse_body
from eyevsai.serving.http.security_settings import LimitSettings
from eyevsai.serving.http.v2_tensors import (
    LABEL,
    PROBABILITIES,
    InferRequest,
    parse_infer,
    render_infer,
)
from eyevsai.serving.images import COLUMN

if TYPE_CHECKING:
    from fastapi import APIRouter, Request, Response

    from eyevsai.serving.http.service import PredictionService
    from eyevsai.serving.http.versions import LoadedVersion

PREFIX = "/v2"
JSON, BINARY = "application/json", "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"
NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)


def make_router(service: PredictionService, limits: LimitSettings) -> APIRouter:
    """Return the routes below /v2 of a server."""
    from fastapi import APIRouter, Request, Response

    routes = _Routes(service, limits)
    router = APIRouter(prefix=PREFIX)
    model, version = "/models/{name}", "/models/{name}/versions/{number}"

    def add(path: str, respond: Callable[..., Awaitable[Response]], method: str = "GET") -> None:
        # FastAPI reads the annotations of a function, which are strings in this module
        async def route(request: Request) -> Response:
            return await respond(
                **({"request": request} if method == "POST" else {}), **request.path_params
            )

        route.__annotations__ = {"request": Request, "return": Response}
        route.__name__, route.__doc__ = respond.__name__, respond.__doc__
        shown = path in ("/health/live", model, f"{model}/infer")
        router.add_api_route(
            path, route, methods=[method], response_class=Response, include_in_schema=shown
        )

    add("", routes.server)
    add("/health/live", routes.live)
    add("/health/ready", routes.ready)
    for path in (model, version):
        add(path, routes.metadata)
        add(f"{path}/ready", routes.model_ready)
        add(f"{path}/infer", routes.infer, "POST")
    return router


class _Routes:
    """Responses of the routes."""

    def __init__(self, service: PredictionService, limits: LimitSettings) -> None:
        self._service = service
        self._limits = limits

    async def server(self) -> Response:
        """Return the name and the extensions of the server."""
        return _respond(
            {"name": "eyevsai", "version": VERSION, "extensions": ["binary_tensor_data"]}
        )

    async def live(self) -> Response:
        """Return 200 if all workers run, 503 if one is stuck."""
        is_live = self._service.is_live()
        return _respond({"live": is_live}, 200 if is_live else 503)

    async def ready(self) -> Response:
        """Return 200 if requests can be answered, else 503."""
        is_ready = self._service.is_ready()
        return _respond({"ready": is_ready}, 200 if is_ready else 503)

    async def model_ready(self, name: str, number: str = "") -> Response:
        """Return 200 if a model, or a version of it, can answer."""
        self._find(name, number)
        is_ready = self._service.is_ready()
        return _respond({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    async def metadata(self, name: str, number: str = "") -> Response:
        """Return the inputs and outputs of a model, and its loaded versions."""
        version = self._find(name, number)
        loaded = sorted(each.number for each in self._service.table.loaded())
        return _respond(describe_model(name, loaded, len(version.classes)))

    async def infer(self, *, request: Request, name: str, number: str = "") -> Response:
        """Predict images. A named version gets all of them; a rollout does not count them."""
        from fastapi import Response

        from eyevsai.serving.http.app import answer_headers, read_key

        version = self._find(name, number)
        header = request.headers.get(HEADER_LENGTH.lower())

        def read(body: bytes) -> tuple[InferRequest, list[Any]]:
            wanted = parse_infer(body, header)
            return wanted, to_images(wanted.cells, self._limits)

        wanted, images = await parse_body(read, await request.body())
        answers = await predict_records(
            self._service,
            images,
            key=read_key(request),
            version=version.number if number else None,
        )
        # in a rollout, another version can have answered, with other classes
        served, classes = version.number, version.classes
        if answers:
            served, classes = answers[0].version, answers[0].classes
        content, json_length = render_infer(wanted, answers, name, str(served), classes)
        headers = answer_headers(answers[0]) if len(answers) == 1 else {}
        if json_length is not None:
            headers[HEADER_LENGTH] = str(json_length)
        media_type = JSON if json_length is None else BINARY
        return Response(content, media_type=media_type, headers=headers)

    def _find(self, name: str, number: str) -> LoadedVersion:
        """Return a loaded version by the names in a URL, which are only compared.

        Raises:
            RequestError: the server has no such model or version (404), or none yet (503).
        """
        table = self._service.table
        if name != self._service.model:
            raise RequestError(
                404,
                f"The model {name[:SHOWN]!r} is not served. This server has "
                f"{self._service.model!r}.",
                reason="model",
            )
        if not number:
            if table.production is None:
                raise RequestError(
                    503, "No version is loaded yet.", reason="not_ready", retry_after=1
                )
            return table.production
        version = table.find(int(number)) if NUMBER.fullmatch(number) else None
        if version is None:
            loaded = ", ".join(str(each.number) for each in table.loaded()) or "none"
            raise RequestError(
                404,
                f"Version {number[:SHOWN]!r} is not loaded. Loaded versions: {loaded}.",
                reason="version",
            )
        return version


def describe_model(name: str, versions: list[int], num_classes: int) -> dict[str, Any]:
    """Return the metadata of a model: versions, input and outputs.

    The shape of an output begins with the number of images.
    """
    return {
        "name": name,
        "versions": [str(number) for number in versions],
        "platform": "eyevsai_image_classifier",
        "inputs": [{"name": COLUMN, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, num_classes]},
        ],
    }


def _respond(content: dict[str, Any], status: int = 200) -> Response:
    from fastapi import Response

    return Response(json.dumps(content), status, media_type=JSON)
