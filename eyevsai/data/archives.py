"""Archives of strangers: only plain files leave one, into one folder, and never more than a dataset
can have.

An archive is refused as a whole at the first thing in it that no dataset needs: a name that leads
elsewhere, a link, a device, a file twice, more than there may be. Python's own filters allow links
and any size.
"""

from __future__ import annotations

import gzip
import stat
import struct
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

BLOCK_BYTES = 64 * 1024
MAX_FILES = 100_000
MAX_FILE_BYTES = 100 * 10**6  # of one that is unpacked
MAX_BYTES = 20 * 10**9
MAX_RATIO, RATIO_FROM_BYTES = 50, 50 * 10**6  # images hardly shrink, and few that do are no danger
# tarfile reads the extended header of a member into memory, however long it is
MAX_HEADER_BYTES = 2**20
UTF_8 = 0x800  # in a zip: says how a name is encoded
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
    """Something in an archive."""

    name: str
    size_bytes: int  # as it says itself
    kind: str  # `file`, `folder`, or what else it is
    open: Callable[[], IO[bytes] | None]


class UnsafeArchiveError(UserError):
    """An archive that is not unpacked."""


def extract(archive: Path, folder: Path, suffixes: Collection[str]) -> int:
    """Writes the files of a .zip or .tar.gz that have one of `suffixes` below `folder`; returns how
    many it left out.

    Hidden files are left out too. What was written before an archive is refused stays: `folder` is
    to be thrown away.

    Raises:
        UnsafeArchiveError: the archive is damaged, or no dataset.
        OSError: a file cannot be written.
    """
    written, left_out, total = set(), 0, 0
    largest = max(RATIO_FROM_BYTES, min(MAX_BYTES, MAX_RATIO * archive.stat().st_size))
    try:
        with closing(_members(archive)) as members:
            for count, member in enumerate(members, 1):
                parts = _parts(archive, member)
                total += member.size_bytes
                if count > MAX_FILES or total > largest:
                    raise _unsafe(
                        archive,
                        f"it holds more than {MAX_FILES:,} files"
                        if count > MAX_FILES
                        else f"it swells to more than {largest / 1e6:,.0f} MB",
                    )
                if member.kind == "folder":
                    continue
                if not _is_wanted(parts, suffixes):
                    left_out += 1
                    continue
                if parts in written:
                    raise _unsafe(archive, f"{member.name!r} is in it twice")
                written.add(parts)
                _write(archive, member, folder.joinpath(*parts))
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _unsafe(
            archive, f"two names in it are one: {Path(str(error.filename)).name!r}"
        ) from error
    except DAMAGED_ERRORS as error:
        raise _unsafe(
            archive, f"it is damaged or not complete ({error or type(error).__name__})"
        ) from error
    return left_out


def _unsafe(archive: Path, why: str) -> UnsafeArchiveError:
    return UnsafeArchiveError(f"{archive} is not unpacked: {why}.")


def _is_wanted(parts: tuple[str, ...], suffixes: Collection[str]) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and Path(parts[-1]).suffix.lower() in suffixes


def _parts(archive: Path, member: Member) -> tuple[str, ...]:
    """The names of the folders and the file that a member's name is made of, which leads nowhere
    else.
    """
    name = member.name.replace("\\", "/")
    if member.kind not in ("file", "folder"):
        raise _unsafe(archive, f"{member.name!r} is {member.kind}")
    if name.startswith("/") or PureWindowsPath(name).drive:
        raise _unsafe(archive, f"{member.name!r} is an absolute path")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts:
        raise _unsafe(archive, f"{member.name!r} leads out of the folder")
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name) or (
        member.kind == "file" and not parts
    ):
        raise _unsafe(archive, f"{member.name!r} is no name of a file")
    return parts


def _write(archive: Path, member: Member, path: Path) -> None:
    if member.size_bytes > MAX_FILE_BYTES:
        raise _unsafe(archive, f"{member.name!r} has {member.size_bytes / 1e6:,.0f} MB")
    path.parent.mkdir(parents=True, exist_ok=True)
    source, written = member.open(), 0
    if source is None:
        raise EOFError(member.name)
    with source, open(path, "xb") as target:
        while block := source.read(BLOCK_BYTES):
            written += len(block)
            if written > member.size_bytes:
                raise ValueError(f"{member.name!r} is longer than it says")
            target.write(block)
    if written != member.size_bytes:
        raise EOFError(f"{member.name!r} is shorter than it says")


def _members(archive: Path) -> Generator[Member, None, None]:
    with open(archive, "rb") as stream:
        magic = stream.read(4)
    if magic.startswith(b"\x1f\x8b"):
        yield from _tar_members(archive)
    elif magic.startswith(b"PK"):
        yield from _zip_members(archive)
    else:
        raise _unsafe(archive, "it is neither a .zip nor a .tar.gz")


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)
            kind = "folder" if info.is_dir() else "file"
            if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a link" if mode == stat.S_IFLNK else "a device or a pipe"
            elif info.flag_bits & ENCRYPTED:
                kind = "encrypted"
            elif info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                kind = "compressed in a way that is not read here"
            yield Member(_zip_name(info), info.file_size, kind, partial(opened.open, info))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of a member; many programs write UTF-8 and do not say so."""
    if info.flag_bits & UTF_8:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _tar_members(archive: Path) -> Iterator[Member]:
    kinds = {
        tarfile.REGTYPE: "file",
        tarfile.AREGTYPE: "file",
        tarfile.DIRTYPE: "folder",
        tarfile.SYMTYPE: "a link",
        tarfile.LNKTYPE: "a link",
        tarfile.GNUTYPE_SPARSE: "a sparse file",
    }
    with gzip.open(archive) as unzipped:
        stream = _BoundedReader(unzipped)
        with tarfile.open(fileobj=stream, mode="r:") as opened:
            for info in opened:
                kind = (
                    "a sparse file"
                    if info.issparse()
                    else kinds.get(info.type, "a device or a pipe")
                )
                yield Member(info.name, info.size, kind, partial(opened.extractfile, info))
        # to the checksum at the end
        if stream.read(MAX_HEADER_BYTES).strip(b"\0") or stream.read(1):
            raise EOFError("something follows its end")


class _BoundedReader:
    """What tarfile reads from: no read is longer than a header may be."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        """As of a file; ValueError for a header that is too long."""
        if not 0 <= size <= MAX_HEADER_BYTES:
            raise ValueError(f"a header of {size} bytes")
        return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
