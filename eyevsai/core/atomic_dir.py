"""Hidden folders that are written first, so that nothing half-written is ever found where it
belongs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from eyevsai.core.errors import write_error


@contextmanager
def atomic_output_dir(target: Path, option: str) -> Iterator[Path]:
    """Create a temporary folder beside `target`, to be renamed to it once it is complete; delete it
    at the end if that did not happen.

    Raises:
        UserError: nothing can be written there; the message names `option`, which chose the place.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise write_error(target.parent, error, f"Choose another {option}.") from error
    try:
        yield building
    finally:
        shutil.rmtree(building, ignore_errors=True)


@contextmanager
def atomic_output_files(target: Path, begun: datetime) -> Iterator[tuple[Path, str]]:
    """A folder in `target`, out of which files are moved there when all are done, and the date that
    names these: that of `begun`, or of the first second after it that no other file there is named
    after. It is gone in the end.

    Inside, since `target` may be a link to another filesystem, or a mount point, whose parent takes
    no files.

    Raises:
        UserError: nothing can be written there.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        building, date = _claim(target, begun)
    except OSError as error:
        raise write_error(target, error, "Choose another --output.") from error
    try:
        yield building, date
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _claim(target: Path, begun: datetime) -> tuple[Path, str]:
    """A new folder whose name claims a date, which two processes cannot both do, and that date."""
    while True:
        date = f"{begun:%Y%m%d_%H%M%S}"
        building = target / f".{date}"
        begun += timedelta(seconds=1)
        try:
            building.mkdir()
        except FileExistsError:
            continue
        # asked after: who claimed it before has moved all files by now
        if not any(target.glob(f"*_{date}.*")):
            return building, date
        building.rmdir()


def write_atomically(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace the content of a file in one step; a reader sees the old or the new content.

    Args:
        path: of the file, whose folder exists.
        text: the new content, written as UTF-8.
        durable: wait until the content is on disk, so that it survives a power failure.

    Raises:
        OSError: the file cannot be written; the old content stays.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(new, "w", encoding="utf-8") as stream:
        stream.write(text)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    new.replace(path)
