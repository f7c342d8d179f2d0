"""Announcement of the import of large libraries, on a terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LIBRARIES = {"torch": "PyTorch", "mlflow": "MLflow"}  # their titles, by module

log = logging.getLogger("eyevsai")


@contextmanager
def loading(*modules: str, is_silent: bool = False) -> Iterator[None]:
    """Show which libraries the block imports, in a line that is erased at the end of the block.

    Nothing is shown if all libraries are loaded, standard error is not a terminal, or INFO is
    disabled.

    Args:
        modules: libraries that the block imports, as keys of `LIBRARIES`.
        is_silent: show nothing.
    """
    titles = [LIBRARIES[name] for name in modules if name not in sys.modules]
    is_shown = not is_silent and sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
    if not titles or not is_shown:
        yield
        return
    line = f"Loading {' and '.join(titles)}"
    print(line, end="\r", flush=True, file=sys.stderr)
    try:
        yield
    finally:
        print(" " * len(line), end="\r", flush=True, file=sys.stderr)
