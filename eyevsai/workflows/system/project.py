"""Workflow of `init`: the wheel of the running eyevsai, and the files of a project."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from eyevsai.core.errors import UserError, write_error
from eyevsai.core.extras import PROJECT
from eyevsai.serving.wheel import FOLDER, pack_wheel

GITIGNORE = ".gitignore"
WHEELS = f"{FOLDER}/{PROJECT}-*.whl"
FIX = "Choose another folder, or fix its permissions."


@dataclass(frozen=True)
class Wheel:
    """Wheel of eyevsai, with its path in a project."""

    path: str
    content: bytes


def pack() -> Wheel:
    """Return the wheel of the running eyevsai.

    Raises:
        UserError: nothing states the requirements of eyevsai.
    """
    for path, content in pack_wheel().items():
        if path.endswith(".whl"):
            return Wheel(path, content)
    raise UserError(
        "Cannot pack the wheel of eyevsai: it is not installed and has no pyproject.toml. Install "
        "it with pip, and run eyevsai init again."
    )


def is_active_python() -> bool:
    """Return True if `python`, which `mlflow run --env-manager=local` calls, is this Python.

    It is not for programs that pipx or uv installed, for example.
    """
    python = shutil.which("python")
    return python is not None and Path(python).parent == Path(sys.executable).parent


def write_project(folder: Path, files: Mapping[str, bytes], *, is_forced: bool) -> None:
    """Write all files of a project to a folder, or none of them.

    Files are completed in a temporary folder inside `folder` and then moved, the last one last.
    Wheels of other versions of eyevsai are replaced, an overwritten .gitignore keeps its lines, and
    other files in `folder` stay.

    Args:
        folder: folder of the project; created if it does not exist.
        files: contents by path in the folder.
        is_forced: overwrite existing files.

    Raises:
        UserError: files exist and `is_forced` is False, or the folder cannot be written.
    """
    wheels = [path.relative_to(folder).as_posix() for path in sorted(folder.glob(WHEELS))]
    existing = [path for path in files if path not in wheels and os.path.lexists(folder / path)]
    existing += wheels
    if existing and not is_forced:
        verb = "exists" if len(existing) == 1 else "exist"
        raise UserError(
            f"Cannot create a project in {folder}: {', '.join(existing)} {verb} already. Choose "
            f"another folder, or use --force, which overwrites them ({GITIGNORE} keeps its lines)."
        )
    for path in existing:
        if (folder / path).is_dir():
            raise UserError(
                f"Cannot write {folder / path}: it is a folder. Move it, or choose another folder."
            )
    try:
        with _new_folders({(folder / path).parent for path in files}):
            _replace_files(folder, existing, files)
    except OSError as error:
        raise write_error(folder, error, FIX) from error


@contextmanager
def _new_folders(folders: set[Path]) -> Iterator[None]:
    """Create the missing folders; delete those that are empty if the block raises an exception."""
    missing = {each for folder in folders for each in (folder, *folder.parents)}
    created = sorted(each for each in missing if not each.exists())
    try:
        for folder in created:
            folder.mkdir()
        yield
    except BaseException:
        for folder in reversed(created):
            with suppress(OSError):
                folder.rmdir()
        raise


def _replace_files(folder: Path, existing: Iterable[str], files: Mapping[str, bytes]) -> None:
    """Replace the existing files with new ones; restore them if a move fails."""
    with tempfile.TemporaryDirectory(prefix=".eyevsai-init-", dir=folder) as temporary:
        new, old = Path(temporary, "new"), Path(temporary, "old")
        for path, content in files.items():
            for each in (new / path, old / path):
                each.parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes(_with_lines_of(folder / path, content))
        try:
            for path in existing:
                (folder / path).replace(old / path)
            for path in files:
                (new / path).replace(folder / path)
        except BaseException:
            for path in files:
                if not (new / path).exists():
                    (folder / path).unlink(missing_ok=True)
            for path in existing:
                if os.path.lexists(old / path):
                    (old / path).replace(folder / path)
            raise


def _with_lines_of(path: Path, content: bytes) -> bytes:
    """Return `content`; for an existing .gitignore, its lines and those of `content` it lacks."""
    if path.name != GITIGNORE or not path.is_file():
        return content
    before = path.read_bytes()
    lines = before.splitlines()
    added = [line for line in content.splitlines() if line not in lines]
    separator = b"\n" if before and not before.endswith(b"\n") else b""
    return before + separator + b"".join(line + b"\n" for line in added)
