"""Atomic output: folders and files are written under a temporary name and renamed when complete."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from eyevsai.core.errors import write_error

# Windows does not replace a file that a process has open, even if it only reads it. Readers of the
# files that are written here have them open for milliseconds.
REPLACE_PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if sys.platform == "win32" else ()


@contextmanager
def atomic_output_dir(target: Path, option: str) -> Iterator[Path]:
    """Yield a temporary folder beside `target`, which the caller renames to it when it is complete.

    A folder that was not renamed is deleted at the end. The parent of `target` is created.

    Args:
        target: final path of the folder.
        option: command-line option that chose the path, for the error message.

    Raises:
        UserError: the parent folder cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise write_error(target.parent, error, f"Choose another {option}.") from error
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def atomic_output_files(target: Path, started_at: datetime) -> Iterator[tuple[Path, str]]:
    """Yield a temporary folder inside `target`, and the date for the names of the output files.

    The caller writes files named `*_DATE.*` to the folder and moves them to `target` when all are
    complete; the folder is deleted at the end. The folder is inside `target`, because `target` may
    be a link to another filesystem, or a mount point whose parent is not writable.

    Args:
        target: output folder; created if it does not exist.
        started_at: first candidate for the date, formatted as `%Y%m%d_%H%M%S`. The next seconds are
            tried while a file in `target` has the date in its name.

    Raises:
        UserError: `target` cannot be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        temporary, date = _reserve_date(target, started_at)
    except OSError as error:
        raise write_error(target, error, "Choose another --output.") from error
    try:
        yield temporary, date
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _reserve_date(target: Path, candidate: datetime) -> tuple[Path, str]:
    """Create a folder named after the first free date; return the folder and the date.

    `mkdir` is atomic, so two processes never reserve the same date.
    """
    while True:
        date = f"{candidate:%Y%m%d_%H%M%S}"
        temporary = target / f".{date}"
        candidate += timedelta(seconds=1)
        try:
            temporary.mkdir()
        except FileExistsError:
            continue
        # Checked after the reservation: an earlier process with this date has moved its files.
        if not any(target.glob(f"*_{date}.*")):
            return temporary, date
        temporary.rmdir()


def write_atomically(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace the content of a file atomically: a reader sees the old or the new content.

    Args:
        path: file to write; its folder must exist.
        text: new content, encoded as UTF-8.
        durable: call `fsync` before the rename, so that the content survives a power failure.

    Raises:
        OSError: the file cannot be written; the old content stays.
    """
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    with open(new, "w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    _replace(new, path)


def _replace(new: Path, path: Path) -> None:
    """Rename a file; try again while another process has the file `path` open, on Windows."""
    for pause_s in REPLACE_PAUSES_S:
        try:
            new.replace(path)
            return
        except PermissionError:
            time.sleep(pause_s)
    new.replace(path)
