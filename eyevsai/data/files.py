"""Directory traversal: system files, image files, folders of saved web pages, and links."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from eyevsai.core.errors import UserError, read_error

# Suffixes of decodable formats. A file whose suffix is in neither set is identified by its content.
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
# Suffixes of other formats: such files are rejected without being opened.
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
SAVED_PAGE = "_files"  # suffix of the folder that a browser saves with a web page


def is_system(name: str) -> bool:
    """Return True for hidden files, and for thumbnails and metadata of operating systems."""
    return name.startswith(".") or name.casefold() in SYSTEM_NAMES


def is_saved_page(name: str) -> bool:
    """Return True for a folder that a browser saves with a web page, which datasets exclude."""
    return name.casefold().endswith(SAVED_PAGE)


def scan(folder: Path) -> dict[str, os.DirEntry[str]]:
    """Return the entries of a folder by name, sorted, without system files.

    Raises:
        UserError: the folder cannot be read.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise read_error(f"the folder {folder}", error, "Fix its permissions.") from error
    return {entry.name: entry for entry in entries if not is_system(entry.name)}


def subfolders(folder: Path) -> dict[str, Path]:
    """Return the subfolders of a folder by name, sorted.

    Links to folders are included, folders of saved web pages are not.

    Raises:
        UserError: the folder cannot be read, or the name of a subfolder is not UTF-8.
    """
    folders = {
        name: Path(entry.path)
        for name, entry in scan(folder).items()
        if not is_saved_page(name) and entry.is_dir()
    }
    if odd := next((name for name in folders if not is_text(name)), None):
        raise UserError(
            f"The name of the folder {escape(odd)} in {escape(str(folder))} is not UTF-8. "
            "Rename it."
        )
    return folders


def is_text(name: str) -> bool:
    """Return True if a file name is valid UTF-8 on disk."""
    return name.isascii() or not any(0xDC80 <= ord(character) <= 0xDCFF for character in name)


def escape(name: str) -> str:
    """Return a printable form of a name: bytes that are not UTF-8 become backslash escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def walk(
    folder: Path, root: Path | None = None, pages: list[Path] | None = None
) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield each file below a folder with its `stat` result, depth first and sorted.

    Links are followed, so a file with two links is yielded twice. System files, broken links,
    sockets and devices are skipped, and so are links to a folder that contains them (cycles).

    Args:
        folder: folder to walk.
        root: ancestor of `folder`; links to a folder between the two are cycles, too.
        pages: list to which folders of saved web pages are appended. They are not entered.

    Raises:
        UserError: a folder cannot be read.
    """
    ancestors = (
        [folder.parents[number] for number in range(len(folder.relative_to(root).parts))]
        if root
        else []
    )
    yield from _walk(
        folder,
        tuple(_identify(each.stat()) for each in ancestors),
        pages if pages is not None else [],
    )


def _walk(
    folder: Path, ancestors: tuple[tuple[int, int], ...], pages: list[Path]
) -> Iterator[tuple[Path, os.stat_result]]:
    identity = _identify(folder.stat())
    if identity in ancestors:
        return
    for name, entry in scan(folder).items():
        try:
            status = entry.stat()
            is_folder = entry.is_dir()
        except OSError:  # broken link
            continue
        if not is_folder:
            if entry.is_file():  # not a socket or device
                yield Path(entry.path), status
        elif is_saved_page(name):
            pages.append(Path(entry.path))
        else:
            yield from _walk(Path(entry.path), (*ancestors, identity), pages)


def _identify(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def is_image(path: Path) -> bool:
    """Return True if a file is an image by its suffix, or by its content if the suffix is unknown.

    A file whose name is not UTF-8 is no image.
    """
    suffix = path.suffix.lower()
    if not is_text(str(path)) or suffix in OTHER_SUFFIXES:
        return False
    if suffix in SUFFIXES:
        return True
    from eyevsai.data.decode import identify

    return identify(path) != ""
