"""Units of work of the worker threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from eyevsai.serving.http.answers import Outcome
from eyevsai.serving.http.versions import LoadedVersion, Result


class Task:
    """One image for a version, and the future of its result, which belongs to the event loop.

    `queue_s` is set when a worker takes the task.
    """

    __slots__ = ("added_at", "future", "image", "queue_s", "version")

    def __init__(self, version: LoadedVersion, image: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.version, self.image = version, image
        self.future: asyncio.Future[Outcome] = loop.create_future()
        self.added_at, self.queue_s = time.perf_counter(), 0.0


class IdleTask:
    """One image for a version that nobody waits for; `on_result` is called in the idle thread."""

    __slots__ = ("image", "on_result", "version")

    def __init__(
        self, version: LoadedVersion, image: Any, on_result: Callable[[Result], None]
    ) -> None:
        self.version, self.image, self.on_result = version, image, on_result
