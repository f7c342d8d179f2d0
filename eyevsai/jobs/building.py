"""Folders that are written beside the place where they belong, so that nothing half-written is ever found there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eyevsai.errors import UserError


@contextmanager
def building_beside(target: Path) -> Iterator[Path]:
    """A folder beside `target`, whose content is moved there when all is done; it is gone in the end.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise UserError(f"Cannot write to {target.parent}: {error.strerror}. Choose another --output.") from error
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)
