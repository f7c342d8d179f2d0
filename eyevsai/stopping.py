"""How a job that was asked to end comes to an end: at once, or where its work can be picked up
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Stop:
    """A wish to end, raised where the work can bear it.

    Outside `deferring` whoever asks raises at once; inside, the work itself calls `check` at places
    where nothing is half done.
    """

    def __init__(self) -> None:
        self.asked: BaseException | None = None
        self.is_deferred = False

    def check(self) -> None:
        """Raises what was asked for, if anything was."""
        if self.asked is not None:
            raise self.asked

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """A block that is not torn: a wish to end waits for the next `check`, at the latest for its
        end.
        """
        before, self.is_deferred = self.is_deferred, True
        try:
            yield
        finally:
            self.is_deferred = before
        if not before:
            self.check()
