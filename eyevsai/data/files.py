"""Files in folders: which belong to the system, which are images, and how links are followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from eyevsai.core.errors import UserError, read_error

# Suffixes of the formats that are decoded. A file with another one is an image if its content is.
SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".bmp",
        ".dib",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".avif",
        ".avifs",
        ".jp2",
        ".j2k",
        ".jpx",
        ".jpf",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".pfm",
        ".mpo",
        ".ico",
        ".icns",
        ".tga",
        ".pcx",
        ".dds",
        ".psd",
        ".qoi",
        ".sgi",
    }
)
# Suffixes of files that are no images, which are not opened to find that out.
OTHER_SUFFIXES = frozenset(
    {
        ".csv",
        ".tsv",
        ".txt",
        ".json",
        ".jsonl",
        ".xml",
        ".yaml",
        ".yml",
        ".toml",
        ".ini",
        ".md",
        ".rst",
        ".html",
        ".htm",
        ".css",
        ".js",
        ".py",
        ".ipynb",
        ".pdf",
        ".doc",
        ".docx",
        ".xls",
        ".xlsx",
        ".zip",
        ".gz",
        ".tar",
        ".bz2",
        ".xz",
        ".7z",
        ".rar",
        ".mp4",
        ".avi",
        ".mov",
        ".mkv",
        ".webm",
        ".mp3",
        ".wav",
        ".npy",
        ".npz",
        ".pt",
        ".pth",
        ".h5",
        ".mat",
        ".parquet",
        ".pkl",
        ".db",
        ".log",
        ".exe",
        ".svg",
        ".eps",
        ".ps",
    }
)
SYSTEM_NAMES = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "__macosx",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "icon\r",
    }
)
SAVED_PAGE = "_files"  # ends the folder that a browser saves beside a page


def is_system(name: str) -> bool:
    """Return True for what a system leaves in folders: hidden files, thumbnails, metadata."""
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


def is_saved_page(name: str) -> bool:
    """Return True for a folder that a browser saves beside a web page; no dataset is read from
    it.
    """
    return name.casefold().endswith(SAVED_PAGE)


def scan(folder: Path) -> dict[str, os.DirEntry[str]]:
    """Return what lies in a folder, by name, sorted; without files of the system.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise read_error(f"the folder {folder}", error, "Fix its permissions.") from error
    return {entry.name: entry for entry in entries if not is_system(entry.name)}


def subfolders(folder: Path) -> dict[str, Path]:
    """Return the folders in a folder, by name, sorted, links to folders included.

    Raises:
        UserError: a name is not UTF-8.
    """
    found = {
        name: Path(entry.path)
        for name, entry in scan(folder).items()
        if not is_saved_page(name) and entry.is_dir()
    }
    if odd := next((name for name in found if not is_text(name)), None):
        raise UserError(
            f"The name of the folder {escape(odd)} in {escape(str(folder))} is not UTF-8. "
            "Rename it."
        )
    return found


def is_text(name: str) -> bool:
    """Return True if a name is UTF-8 on the disk."""
    return name.isascii() or not any(0xDC80 <= ord(character) <= 0xDCFF for character in name)


def escape(name: str) -> str:
    """Return a name as it can be printed, whatever its bytes are."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def walk(
    folder: Path, root: Path | None = None, pages: list[Path] | None = None
) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each file below a folder with its state, sorted; links are followed, except in circles.

    A file that is linked twice is yielded twice. Links to nothing, and to folders between `root`
    and `folder`, are left out. Folders that were saved with a web page are not entered, and are
    appended to `pages`.
    """
    above = (
        [folder.parents[number] for number in range(len(folder.relative_to(root).parts))]
        if root
        else []
    )
    yield from _walk(
        folder, tuple(_identify(each.stat()) for each in above), pages if pages is not None else []
    )


def _walk(
    folder: Path, above: tuple[tuple[int, int], ...], pages: list[Path]
) -> Iterator[tuple[Path, os.stat_result]]:
    identity = _identify(folder.stat())
    if identity in above:
        return
    for name, entry in scan(folder).items():
        try:
            status = entry.stat()
            is_folder = entry.is_dir()
        except OSError:  # a link to nothing
            continue
        if not is_folder:
            if entry.is_file():  # and no socket or device
                yield Path(entry.path), status
        elif is_saved_page(name):
            pages.append(Path(entry.path))
        else:
            yield from _walk(Path(entry.path), (*above, identity), pages)


def _identify(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def is_image(path: Path) -> bool:
    """Return True if the suffix, or the content of a file with an unknown suffix, is that of an
    image.
    """
    suffix = path.suffix.lower()
    if not is_text(str(path)) or suffix in OTHER_SUFFIXES:
        return False
    if suffix in SUFFIXES:
        return True
    from eyevsai.data.decode import identify

    return identify(path) != ""
