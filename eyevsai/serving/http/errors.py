"""Refusals of requests, and their responses."""

from __future__ import annotations

import json
import math

INVOCATIONS = "/invocations"
# MLflow's names of the statuses, as its clients read them in `error_code`
ERROR_CODES = {
    400: "BAD_REQUEST",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "RESOURCE_DOES_NOT_EXIST",
    413: "BAD_REQUEST",
    415: "BAD_REQUEST",
    422: "INVALID_PARAMETER_VALUE",
    429: "REQUEST_LIMIT_EXCEEDED",
    500: "INTERNAL_ERROR",
    503: "TEMPORARILY_UNAVAILABLE",
    504: "TEMPORARILY_UNAVAILABLE",
}


class RequestError(Exception):
    """A refusal of a request, with the status and the message for the client.

    Attributes:
        status: HTTP status.
        message: reason for the client, without internals of the server.
        reason: label of the metric of rejected requests.
        retry_after: seconds after which the client may try again; None for no such advice.
        closes: the connection is closed, because the rest of the request was not read.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        reason: str = "request",
        retry_after: float | None = None,
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.reason = reason
        self.retry_after = retry_after
        self.closes = closes

    def headers(self) -> dict[str, str]:
        """Return the headers of the response, in lower case."""
        headers = {"content-type": "application/json", "cache-control": "no-store"}
        if self.status == 401:
            headers["www-authenticate"] = 'Bearer realm="eyevsai"'
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.closes:
            headers["connection"] = "close"
        return headers


def error_body(path: str, error: RequestError) -> bytes:
    """Return the JSON of a refusal: MLflow's form for its route, `{"error": ...}` for others.

    The second is the form of the Open Inference Protocol, too.
    """
    if path == INVOCATIONS:
        code = ERROR_CODES.get(error.status, "BAD_REQUEST")
        return json.dumps({"error_code": code, "message": error.message}).encode()
    return json.dumps({"error": error.message}).encode()
