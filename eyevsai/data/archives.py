"""Safe extraction of untrusted archives: plain files only, into one folder, with size limits.

The whole archive is rejected at the first member that no dataset needs: a path outside the folder,
a link, a device, a duplicate file, or more files or bytes than the limits. The extraction filters
of Python's `tarfile` are not enough: they allow links and any size.
"""

from __future__ import annotations

import gzip
import stat
import struct
import sys
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import IO, Any

from eyevsai.core.errors import UserError
from eyevsai.core.names import is_valid_on_windows

IS_WINDOWS = sys.platform == "win32"
BLOCK_BYTES = 64 * 1024
MAX_FILES = 100_000
MAX_FILE_BYTES = 100 * 10**6  # per extracted file
MAX_BYTES = 20 * 10**9
# Compressed images hardly shrink in an archive, so that a high ratio indicates an archive bomb;
# below RATIO_FROM_BYTES of content any ratio is harmless.
MAX_RATIO, RATIO_FROM_BYTES = 50, 50 * 10**6
# tarfile reads a member's whole extended header into memory
MAX_HEADER_BYTES = 2**20
# flag bits of a zip member
UTF_8 = 0x800  # the name is encoded as UTF-8
ENCRYPTED = 0x1
DAMAGED_ERRORS = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
)


@dataclass(frozen=True)
class Member:
    """A member of an archive: a file, a folder, or something that is not extracted."""

    name: str
    size_bytes: int  # uncompressed, as declared in the archive
    kind: str  # `file`, `folder`, or a phrase for messages, such as `a link`
    open: Callable[[], IO[bytes] | None]


class UnsafeArchiveError(UserError):
    """The archive is damaged, or contains something that is not extracted."""


def extract(archive: Path, folder: Path, suffixes: Collection[str]) -> int:
    """Extract the files with given suffixes, and return the number of other files.

    Files written before an archive is rejected are not removed: the caller deletes `folder`.

    Args:
        archive: a .zip or .tar.gz file, recognised by its content.
        folder: folder below which the files are written, with the folders of the archive.
        suffixes: lower-case suffixes, such as `.jpg`. Other files and hidden ones are skipped.

    Returns:
        The number of skipped files.

    Raises:
        UnsafeArchiveError: the archive is damaged, has another format, exceeds a limit, or contains
            an unsafe member.
        OSError: a file cannot be written.
    """
    paths, num_skipped, total = set(), 0, 0
    max_total = max(RATIO_FROM_BYTES, min(MAX_BYTES, MAX_RATIO * archive.stat().st_size))
    try:
        with closing(_iter_members(archive)) as members:
            for count, member in enumerate(members, 1):
                parts = _split_path(archive, member)
                total += member.size_bytes
                if count > MAX_FILES or total > max_total:
                    raise _unsafe_error(
                        archive,
                        f"it contains more than {MAX_FILES:,} files and folders"
                        if count > MAX_FILES
                        else f"its content is larger than {max_total / 1e6:,.0f} MB",
                    )
                if member.kind == "folder":
                    continue
                if not _is_wanted(parts, suffixes):
                    num_skipped += 1
                    continue
                if parts in paths:
                    raise _unsafe_error(archive, f"it contains {member.name!r} twice")
                paths.add(parts)
                _extract_file(archive, member, folder.joinpath(*parts))
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _unsafe_error(
            archive, f"two members have the same path: {Path(str(error.filename)).name!r}"
        ) from error
    except DAMAGED_ERRORS as error:
        raise _unsafe_error(
            archive, f"it is damaged or incomplete ({error or type(error).__name__})"
        ) from error
    return num_skipped


def _unsafe_error(archive: Path, reason: str) -> UnsafeArchiveError:
    return UnsafeArchiveError(f"Cannot unpack {archive}: {reason}.")


def _is_wanted(parts: tuple[str, ...], suffixes: Collection[str]) -> bool:
    is_hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not is_hidden and Path(parts[-1]).suffix.lower() in suffixes


def _split_path(archive: Path, member: Member) -> tuple[str, ...]:
    """Return the components of a member's path, checked to stay inside the target folder.

    Raises:
        UnsafeArchiveError: the member is neither a file nor a folder, or its path is absolute,
            contains `..`, control characters or undecodable bytes, or is empty; or the system is
            Windows, where the name denotes a device or a stream of another file.
    """
    name = member.name.replace("\\", "/")
    if member.kind not in ("file", "folder"):
        raise _unsafe_error(archive, f"{member.name!r} is {member.kind}")
    if name.startswith("/") or PureWindowsPath(name).drive:
        raise _unsafe_error(archive, f"{member.name!r} is an absolute path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _unsafe_error(archive, f"{member.name!r} leads outside the target folder")
    if (
        any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name)
        or (member.kind == "file" and not parts)
        or (IS_WINDOWS and not all(map(is_valid_on_windows, parts)))
    ):
        raise _unsafe_error(archive, f"{member.name!r} is not a valid file name")
    return parts


def _extract_file(archive: Path, member: Member, path: Path) -> None:
    if member.size_bytes > MAX_FILE_BYTES:
        raise _unsafe_error(
            archive,
            f"{member.name!r} has {member.size_bytes / 1e6:,.0f} MB, more than the limit of "
            f"{MAX_FILE_BYTES / 1e6:,.0f} MB",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    source, num_bytes = member.open(), 0
    if source is None:
        raise EOFError(member.name)
    with source, open(path, "xb") as target:
        while block := source.read(BLOCK_BYTES):
            num_bytes += len(block)
            if num_bytes > member.size_bytes:
                raise ValueError(f"{member.name!r} is larger than declared")
            target.write(block)
    if num_bytes != member.size_bytes:
        raise EOFError(f"{member.name!r} is smaller than declared")


def _iter_members(archive: Path) -> Generator[Member, None, None]:
    with open(archive, "rb") as stream:
        magic = stream.read(4)
    if magic.startswith(b"\x1f\x8b"):
        yield from _iter_tar_members(archive)
    elif magic.startswith(b"PK"):
        yield from _iter_zip_members(archive)
    else:
        raise _unsafe_error(archive, "it is neither a .zip nor a .tar.gz")


def _iter_zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as container:
        for info in container.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            kind = "folder" if info.is_dir() else "file"
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a link" if mode == stat.S_IFLNK else "a device or a pipe"
            elif info.flag_bits & ENCRYPTED:
                kind = "encrypted"
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                kind = "compressed with an unsupported method"
            yield Member(_zip_name(info), info.file_size, kind, partial(container.open, info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return a member's name; many programs write UTF-8 names without setting the UTF-8 flag."""
    if info.flag_bits & UTF_8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _iter_tar_members(archive: Path) -> Iterator[Member]:
    kinds = {
        tarfile.REGTYPE: "file",
        tarfile.AREGTYPE: "file",
        tarfile.DIRTYPE: "folder",
        tarfile.SYMTYPE: "a link",
        tarfile.LNKTYPE: "a link",
        tarfile.GNUTYPE_SPARSE: "a sparse file",
    }
    with gzip.open(archive) as content:
        stream = _BoundedReader(content)
        with tarfile.open(fileobj=stream, mode="r:") as container:
            for info in container:
                kind = (
                    "a sparse file"
                    if info.issparse()
                    else kinds.get(info.type, "a device or a pipe")
                )
                yield Member(info.name, info.size, kind, partial(container.extractfile, info))
        # gzip verifies the checksum when its end is read
        if stream.read(MAX_HEADER_BYTES).strip(b"\0") or stream.read(1):
            raise EOFError("data after the end of the archive")


class _BoundedReader:
    """File object for tarfile that limits each read to MAX_HEADER_BYTES, the limit of a header."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; raise ValueError if `size` is negative or too large."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"invalid header size of {size} bytes")
        return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
