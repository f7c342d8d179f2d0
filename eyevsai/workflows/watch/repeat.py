"""Repetition of `watch` for `--every`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from eyevsai.core.errors import JobError
from eyevsai.workflows.shutdown import handling_signals
from eyevsai.workflows.watch.settings import WatchSettings
from eyevsai.workflows.watch.watch import WatchResult, watch

log = logging.getLogger("eyevsai")

POLL_S = 0.5


def watch_repeatedly(settings: WatchSettings, pause_s: float) -> Iterator[WatchResult]:
    """Yield the result of each call; a signal ends it during a pause or a call.

    An outage of the store or the log is logged, and the next call tries again.

    Args:
        settings: settings of the calls.
        pause_s: pause between two calls, in seconds.

    Raises:
        UserError: the policy or the model is unusable.
    """
    while True:
        try:
            yield watch(settings)
        except JobError as error:
            log.error("%s The next call tries again.", error)
        with handling_signals():
            deadline = time.monotonic() + pause_s
            while (rest := deadline - time.monotonic()) > 0:
                time.sleep(min(POLL_S, rest))
