"""Middleware of Ray's HTTP proxies. Imports nothing of eyevsai: it runs in processes of Ray.

If a replica is killed, Ray's proxy sends nothing for the requests that it was answering, and
uvicorn turns that into 500 without a reason. Clients do not repeat a request after 500, which also
means that a model failed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.middleware import Middleware

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Callable[[], Awaitable[Message]], Send], Awaitable[None]]

# variable by which Ray's proxies find `make_middleware`
CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
CALLBACK = f"{__name__}.make_middleware"
RETRY_AFTER_S = 1
BODY = json.dumps(
    {"error": "The replica ended before it answered. Send the request again."}
).encode()


def make_middleware() -> list[Middleware]:
    """Return the middleware for the proxies of Ray Serve."""
    return [Middleware(UnansweredRequests)]


class UnansweredRequests:
    """ASGI middleware that answers 503 with Retry-After in place of a replica that was lost.

    The head of a response is held back until its body begins, since a replica can be lost between
    the two.

    Args:
        app: Ray's proxy.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head: Message | None = None
        is_answered = False

        async def hold_head(message: Message) -> None:
            nonlocal head, is_answered
            if message["type"] == "http.response.start":
                head = message
                return
            if head is not None:
                is_answered = True
                await send(head)
                head = None
            await send(message)

        await self._app(scope, receive, hold_head)
        if not is_answered:
            await _refuse(send)


async def _refuse(send: Send) -> None:
    headers = {
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "retry-after": str(RETRY_AFTER_S),
    }
    await send(
        {
            "type": "http.response.start",
            "status": 503,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": BODY})
