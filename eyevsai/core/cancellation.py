"""How a job that was asked to end comes to an end: at once, or where its work can be picked up
again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CancellationToken:
    """A wish to end, raised where the work can bear it.

    Outside `shielded` whoever asks raises at once; inside, the work itself calls `check` at places
    where nothing is half done.
    """

    def __init__(self) -> None:
        self.requested: BaseException | None = None
        self.is_shielded = False

    def check(self) -> None:
        """Raises what was asked for, if anything was."""
        if self.requested is not None:
            raise self.requested

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A block that is not torn: a wish to end waits for the next `check`, at the latest for its
        end.
        """
        before, self.is_shielded = self.is_shielded, True
        try:
            yield
        finally:
            self.is_shielded = before
        if not before:
            self.check()
