"""Paths of the images that `predict` classifies. Imports neither torch nor MLflow."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand, is_dir, is_file, path_error
from eyevsai.data.files import is_image, walk
from eyevsai.data.unused_files import UnusedFile, describe_unused, reason_not_an_image, unused_pages

log = logging.getLogger("eyevsai")

STANDARD_INPUT = "-"


def find_images(names: Sequence[str]) -> list[Path]:
    """Return the files of `names`, which are files, folders or `-`, in order.

    Raises:
        UserError: a name is empty or does not exist, or a folder or standard input has no images.
    """
    images: list[Path] = []
    for name in names:
        if not name:  # Path("") would be the current folder
            raise UserError(
                "An image path is empty. Use a file, a folder, or - to read paths from standard "
                "input."
            )
        path = expand(name)
        if name == STANDARD_INPUT:
            images += [image for line in _read_paths() for image in _list_images(line)]
        elif is_dir(path) or is_file(path):
            images += _list_images(path)
        else:
            raise path_error(path) or UserError(
                f"There is no image file or folder {name}. Check the path."
            )
    return images


def _list_images(path: Path) -> list[Path]:
    """Return the images in a folder, sorted; a path that is not a folder as it is.

    Logs a warning about the other files of a folder, and raises UserError if it has no images.
    """
    if not is_dir(path):
        return [path]
    images, others, pages = list[Path](), list[UnusedFile](), list[Path]()
    for each, _ in walk(path, pages=pages):
        if is_image(each):
            images.append(each)
        else:
            others.append(reason_not_an_image(each))
    unused = describe_unused([*others, *unused_pages(pages)])
    if not images:
        raise UserError(
            f"There are no images in {path} ({unused or 'it is empty'}). Use image files, or a "
            "folder with images."
        )
    if unused:
        log.warning("not used: %s", unused)
    return sorted(images)


def _read_paths() -> list[Path]:
    """Return the paths on standard input, one per line; raise UserError if there are none."""
    usage = f"{STANDARD_INPUT} reads paths of files and folders, one per line"
    content = sys.stdin.buffer.read()
    try:
        lines = content.decode().split("\n") if b"\0" not in content else None
    except UnicodeDecodeError:
        lines = None
    if lines is None:
        raise UserError(f"Standard input is not UTF-8 text: {usage}.")
    if not (names := [line for line in lines if line.strip()]):
        raise UserError(f"Standard input is empty: {usage}.")
    return [expand(name.removesuffix("\r")) for name in names]
