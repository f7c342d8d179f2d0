"""Cancellation of jobs: immediately, or at a point from which the work can be resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class CancellationToken:
    """Cancellation token: raised immediately, or at the next `check()` inside `shielded()`.

    The requester sets `requested` to the exception. Outside `shielded` it also raises the exception
    itself; inside, the job calls `check` where its state is consistent.
    """

    def __init__(self) -> None:
        self.requested: BaseException | None = None
        self.is_shielded = False

    def check(self) -> None:
        """Raise the requested exception, if there is one."""
        if self.requested is not None:
            raise self.requested

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """Defer a cancellation to the next `check` inside the block, or to the end of the block.

        Blocks can be nested: only the end of the outermost block raises. An exception of the block
        itself takes precedence over the cancellation.
        """
        before, self.is_shielded = self.is_shielded, True
        try:
            yield
        finally:
            self.is_shielded = before
        if not before:
            self.check()
