"""`POST /v1/feedback`: labels from clients, checked and put into the inference log."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING, Any

from eyevsai.inference_log.feedback import make_check, parse_label
from eyevsai.inference_log.label_store import TICK_S
from eyevsai.inference_log.records import Label
from eyevsai.inference_log.writer import LogWriter
from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.json_body import parse_body, parse_json

if TYPE_CHECKING:
    from fastapi import Request, Response

MAX_LABELS = 10_000  # of a request
RETRY_S = 30.0  # while the database is unreachable
_SHOWN = 100  # refused labels in a response

Handler = Callable[["Request"], Awaitable["Response"]]


def accept_feedback(body: bytes, writer: LogWriter, classes: Collection[str]) -> dict[str, Any]:
    """Put the labels of a body into the log, and return the content of the response.

    The body has one label, `{"id", "label", "source", "at"}`, or a list of them. Labels that are
    refused do not hold back the others. A body can be sent again: labels that are stored change
    nothing.

    Args:
        body: JSON.
        writer: the log.
        classes: classes of the served versions.

    Raises:
        RequestError: the body is malformed, all labels are refused (400), or the log has been
            unreachable for so long that labels could be lost (503).
    """
    value = parse_json(body)
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= MAX_LABELS:
        raise RequestError(
            400, f"The body has {len(values)} labels. Send 1 to {MAX_LABELS:,}.", reason="feedback"
        )
    if writer.state().is_filling:
        raise RequestError(
            503,
            "The inference log is unreachable. Send the labels again later.",
            reason="log",
            retry_after=RETRY_S,
        )
    now = time.time()
    check = make_check(writer.identities, classes)
    labels, refused = list[Label](), list[dict[str, Any]]()
    for index, each in enumerate(values):
        label = parse_label(each)
        problem = label if isinstance(label, str) else check(label)
        if problem is None and isinstance(label, Label):
            label.received_at = now + index * TICK_S
            labels.append(label)
        else:
            refused.append({"index": index, "reason": problem})
    if refused:
        writer.count_refused(len(refused))
    if not labels:
        first = refused[0]
        raise RequestError(
            400, f"Label {first['index']} is refused: {first['reason']}.", reason="feedback"
        )
    writer.put(labels)
    return {"accepted": len(labels), "refused": len(refused), "refused_labels": refused[:_SHOWN]}


def make_feedback_route(writer: LogWriter, classes: Callable[[], Collection[str]]) -> Handler:
    """Return the handler of `POST /v1/feedback`.

    Args:
        writer: the log.
        classes: function that returns the classes of the loaded versions.
    """
    from fastapi import Request, Response

    async def post_feedback(request: Request) -> Response:
        """Accept labels for earlier answers."""
        content = await parse_body(
            lambda body: accept_feedback(body, writer, classes()), await request.body()
        )
        return Response(json.dumps(content), 202, media_type="application/json")

    # FastAPI reads the annotations, which are names of this function
    post_feedback.__annotations__ = {"request": Request, "return": Response}
    return post_feedback
