"""What a job does when it is asked to end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from eyevsai.errors import Terminated


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Inside the block SIGTERM raises Terminated, so that a run ends KILLED and files are closed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
