"""One file from the network: what came is kept when the connection breaks, and the rest is asked
for.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import IO, TYPE_CHECKING

from eyevsai.core.errors import JobError
from eyevsai.core.progress import track

if TYPE_CHECKING:
    import requests

BLOCK_BYTES = 64_000
MAX_BYTES = 20 * 10**9
TIMEOUT_S = (10, 30)  # to connect, and between two blocks
PAUSE_S = 1.0

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class DownloadUrl:
    """Where a file can be had now. A URL may be signed, so that it is never shown."""

    url: str
    md5: str | None


def download(locate: Callable[[], DownloadUrl], folder: Path, file: str) -> Path:
    """Fetches a file into `folder` and returns its path, which ends in `.part`: it is ours, whole
    and checked.

    What an earlier call left there is gone on with by a range request, as it is when the connection
    breaks as long as something came since the last time.

    Raises:
        JobError: no connection, an answer that is an error, or another checksum than was promised.
        OSError: the file cannot be written.
    """
    import requests
    import urllib3

    while True:
        before = _size_of_partial(folder, file)
        try:
            location = locate()
            # what changed since is another file
            part = folder / f"{file}.{location.md5 or 'unchecked'}.part"
            _resume_download(location.url, part, file)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if _size_of_partial(folder, file) <= before:
                raise JobError(f"{file} cannot be downloaded: {_reason(error)}.") from error
            log.info(
                "%s: the connection broke after %s; going on",
                file,
                megabytes(_size_of_partial(folder, file)),
            )
            time.sleep(PAUSE_S)
            continue
        if location.md5 is not None and hash_md5(part) != location.md5:
            part.unlink()
            raise JobError(
                f"{file} is not what was published, or was damaged on its way: its MD5 is not "
                f"{location.md5}. It was deleted; run the same command again."
            )
        return part


def hash_md5(path: Path) -> str:
    """MD5 of a file, which is what publishers name; it finds damage, not malice."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def megabytes(size_bytes: int) -> str:
    """`12.3 MB`."""
    return f"{size_bytes / 1e6:.1f} MB"


def _size_of_partial(folder: Path, file: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"{file}.*.part"))


def _resume_download(url: str, part: Path, file: str) -> None:
    """Asks for what `part` lacks and writes it as it comes."""
    import requests

    there = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        first, size = _range_of(response)
        goes_on = response.status_code == HTTPStatus.PARTIAL_CONTENT
        is_past_end = response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        if there and is_past_end and size == there:
            return
        if there and (is_past_end or (goes_on and first != there)):  # another file than it was
            part.unlink()
            _resume_download(url, part, file)
            return
        response.raise_for_status()
        there = there if goes_on else 0
        left = int(response.headers.get("Content-Length", 0))
        _check_size(there + left, left, part, file)
        log.info(
            "%s: %s%s",
            file,
            megabytes(there + left),
            f", of which {megabytes(there)} are here" if there else "",
        )
        with open(part, "ab" if goes_on else "wb") as stream:
            for _ in track(
                _receive(response, stream, there), f"{file}, kB", total=left // 1000, unit=64
            ):
                pass


def _receive(response: requests.Response, stream: IO[bytes], there: int) -> Iterator[None]:
    while block := response.raw.read(BLOCK_BYTES, decode_content=False):
        there += len(block)
        if there > MAX_BYTES:
            raise JobError(
                f"The server sends more than {megabytes(MAX_BYTES)}: this is no dataset."
            )
        stream.write(block)
        yield


def _check_size(size_bytes: int, left: int, part: Path, file: str) -> None:
    free = shutil.disk_usage(part.parent).free
    if size_bytes > MAX_BYTES:
        raise JobError(f"{file} has {megabytes(size_bytes)}: this is no dataset.")
    if left > free:
        raise JobError(
            f"{file} needs {megabytes(left)} and {part.parent} has {megabytes(free)} left. Make "
            "room, or choose another --data-dir."
        )


def _range_of(response: requests.Response) -> tuple[int | None, int | None]:
    """First byte and size of the whole, from `bytes 5-9/10` or `bytes */10`."""
    span, _, size = (
        response.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("/")
    )
    first = span.partition("-")[0]
    return (int(first) if first.isdigit() else None), (int(size) if size.isdigit() else None)


def _reason(error: Exception) -> str:
    """What went wrong, without the URL, which may be signed."""
    import requests

    if (
        isinstance(error, requests.HTTPError)
        and error.response is not None
        and not error.response.ok
    ):
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server does not answer"
    cause = error.args[0] if error.args else type(error).__name__
    return str(getattr(cause, "reason", cause)).rpartition(": ")[2].rstrip(".")
