"""ASGI application of the server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version as read_version
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from eyevsai.core.version import VERSION
from eyevsai.reports.api_page import render_api_page
from eyevsai.serving.http.answers import Answer, PredictionError
from eyevsai.serving.http.errors import RequestError, error_body
from eyevsai.serving.http.service import PredictionService

JSON, PREDICT = "application/json", "/v1/predict"
KEY, ID, SERVED, ARM = "eyevsai-key", "Eyevsai-Id", "Eyevsai-Version", "Eyevsai-Arm"
REQUEST = "eyevsai-request"
MAX_KEY = 512  # characters
IMAGE_TYPES = ("image/", "application/octet-stream")
DESCRIPTION = """Image classification by a registered model.

`POST /v1/predict` takes the content of an image file as the body. `/invocations` is compatible with
MLflow's scoring server, and `/v2` with the Open Inference Protocol.
"""
PREDICT_DOC: dict[str, Any] = {
    "summary": "Predict the class of one image.",
    "parameters": [
        {
            "name": "top_k",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1},
            "description": "Number of classes in the answer.",
        },
        {
            "name": "Eyevsai-Key",
            "in": "header",
            "schema": {"type": "string"},
            "description": "Key of the client, which gets the same version in a rollout.",
        },
        {
            "name": "Eyevsai-Request",
            "in": "header",
            "schema": {"type": "string"},
            "description": "UUID of version 7 in 32 hexadecimal digits, the same when the request "
            "is sent again: its answers are then logged once.",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    "responses": {
        "200": {
            "description": "Prediction, with its id for feedback.",
            "content": {
                JSON: {
                    "example": {
                        "id": "0198f0c2",
                        "model": "digits",
                        "version": 7,
                        "arm": "production",
                        "label": "7",
                        "probability": 0.98,
                        "probabilities": {"7": 0.98, "9": 0.01},
                    }
                }
            },
        },
        "413": {"description": "The body or the image is too large."},
        "415": {"description": "The body is not an image file by its media type."},
        "422": {"description": "The body is not an image."},
        "503": {"description": "The queue is full, or no version is ready; see Retry-After."},
        "504": {"description": "The prediction took too long."},
    },
}

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def build_app(
    service: PredictionService,
    *,
    top_k: int = 5,
    routers: Sequence[APIRouter] = (),
    lifespan: Lifespan | None = None,
    has_docs: bool = True,
    has_metrics: bool = True,
) -> FastAPI:
    """Return the application of a service.

    Args:
        service: predictions; also `app.state.service`.
        top_k: number of classes in an answer of /v1/predict.
        routers: further routes.
        lifespan: start and end of the server, in addition to those of the workers.
        has_docs: serve the OpenAPI page at /docs.
        has_metrics: serve /metrics.
    """

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        import asyncio

        service.pool.start(asyncio.get_running_loop())
        try:
            if lifespan is None:
                yield
            else:
                async with lifespan(app):
                    yield
        finally:
            await asyncio.to_thread(service.pool.close)

    app = FastAPI(
        title=f"eyevsai: {service.model}",
        description=DESCRIPTION,
        version=VERSION,
        lifespan=run,
        docs_url=None,  # that page of FastAPI loads its scripts from another server
        redoc_url=None,
        openapi_url="/openapi.json" if has_docs else None,
    )
    app.state.service = service
    app.add_exception_handler(RequestError, _respond_to_error)
    _add_predict(app, service, top_k)
    _add_health(app, service)
    if has_metrics:
        _add_metrics(app, service)
    for router in routers:
        app.include_router(router)
    if has_docs:
        _add_page(app)
    return app


def _add_predict(app: FastAPI, service: PredictionService, top_k: int) -> None:
    async def predict(request: Request) -> Response:
        body = await _read_image(request)
        count = _read_top_k(request, top_k)
        answer = await service.predict(
            body,
            key=read_key(request),
            bad_image_status=422,
            request_id=request.headers.get(REQUEST),
        )
        return Response(_render(answer, count), media_type=JSON, headers=answer_headers(answer))

    # a route of Starlette: FastAPI's solving of parameters would take a tenth of a small request
    app.add_route(PREDICT, predict, methods=["POST"], include_in_schema=False)
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        """Return the description of all routes, with that of the predictions first."""
        schema = describe()
        return {**schema, "paths": {PREDICT: {"post": PREDICT_DOC}, **schema["paths"]}}

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI documents this


def _add_health(app: FastAPI, service: PredictionService) -> None:
    mlflow_version = read_version("mlflow")

    def add(paths: Sequence[str], respond: Callable[[], Awaitable[Response]]) -> None:
        for path in paths:
            app.add_api_route(path, respond, methods=["GET"], include_in_schema=path in SHOWN)

    async def ready() -> Response:
        """Return 200 if requests can be answered, else 503."""
        return _probe(service.is_ready())

    async def live() -> Response:
        """Return 200 if all workers run, 503 if one is stuck."""
        return _probe(service.is_live())

    async def version() -> Response:
        """Return the version of MLflow, as its scoring server does."""
        return Response(mlflow_version, media_type=JSON)

    async def status() -> Response:
        """Return versions, shares, queue, registry and log."""
        return Response(json.dumps(service.status(), ensure_ascii=False), media_type=JSON)

    add(("/ready", "/ping", "/health"), ready)
    add(("/live",), live)
    add(("/version",), version)
    add(("/v1/status",), status)


SHOWN = ("/ready", "/live", "/v1/status")


def _add_metrics(app: FastAPI, service: PredictionService) -> None:
    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _add_page(app: FastAPI) -> None:
    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return Response(render_api_page(app.openapi()), media_type="text/html; charset=utf-8")


def read_key(request: Request) -> str | None:
    """Return the key of the client; None without one.

    Raises:
        RequestError: it is too long.
    """
    key = request.headers.get(KEY)
    if key is not None and len(key) > MAX_KEY:
        raise RequestError(400, f"The header Eyevsai-Key has more than {MAX_KEY} characters.")
    try:  # clients send UTF-8, as `log forget --key` hashes it; Starlette reads Latin-1
        return key.encode("latin-1").decode() if key else None
    except UnicodeDecodeError:
        return key


def answer_headers(answer: Answer) -> dict[str, str]:
    """Return the headers with id, version and arm of an answer."""
    return {ID: answer.id, SERVED: str(answer.version), ARM: answer.arm}


async def _read_image(request: Request) -> bytes:
    media_type = request.headers.get("content-type", "application/octet-stream")
    if not media_type.lower().startswith(IMAGE_TYPES):
        raise RequestError(
            415,
            f"The media type is {media_type[:80]!r}. Send the content of an image file with "
            "Content-Type: image/jpeg, image/png or another image type; JSON belongs to "
            "/invocations.",
            reason="media_type",
        )
    body = await request.body()
    if not body:
        raise RequestError(400, "The body is empty. Send the content of an image file.")
    return body


def _read_top_k(request: Request, default: int) -> int:
    text = request.query_params.get("top_k")
    if text is None:
        return default
    if not text.isdecimal() or int(text[:9]) < 1:
        raise RequestError(400, f"top_k must be a whole number above 0, not {text[:20]!r}.")
    return int(text[:9])


def _render(answer: Answer, count: int) -> bytes:
    values = {
        "id": answer.id,
        "model": answer.model,
        "version": answer.version,
        "arm": answer.arm,
        "label": answer.label,
        "probability": answer.probability,
        "probabilities": dict(answer.top(count)),
    }
    return json.dumps(values, ensure_ascii=False).encode()


def _probe(is_ok: bool) -> Response:
    return Response(b"\n", 200 if is_ok else 503, media_type=JSON)


async def _respond_to_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    if not isinstance(error, PredictionError):  # which the service counts
        request.app.state.service.metrics.reject(error.reason)
    body = error_body(request.url.path, error)
    return Response(body, error.status, error.headers(), media_type=JSON)
