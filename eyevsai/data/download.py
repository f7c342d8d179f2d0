"""Download of a single file over HTTP, resumed by range requests after a lost connection."""

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
TIMEOUT_S = (10, 30)  # for connecting, and between two blocks
PAUSE_S = 1.0  # before resuming

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class DownloadUrl:
    """Current URL of a file, which may be signed and is never logged, and its MD5 if published."""

    url: str
    md5: str | None


def download(locate: Callable[[], DownloadUrl], folder: Path, file: str) -> Path:
    """Download a file, verify its MD5 if one is published, and return its path.

    A partial file of an earlier call is resumed. After a lost connection the download is resumed
    too, unless no data was received since the last attempt.

    Args:
        locate: returns the URL and MD5; called before each attempt, since URLs can expire.
        folder: existing folder of the downloaded file.
        file: name of the file, for its path and for messages.

    Returns:
        The path of the complete file, `FILE.MD5.part` or `FILE.unchecked.part` in `folder`. The
        suffix `.part` marks files that this function has created and may delete.

    Raises:
        JobError: the connection failed, the server returned an error, the file is too large, the
            disk is full, or the MD5 differs; in the last case the file is deleted.
        OSError: the file cannot be written.
    """
    import requests
    import urllib3

    while True:
        before = _partial_size(folder, file)
        try:
            location = locate()
            # a new version has another MD5, so that it never resumes the partial file of an old one
            part = folder / f"{file}.{location.md5 or 'unchecked'}.part"
            _resume_download(location.url, part, file)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if _partial_size(folder, file) <= before:
                raise JobError(f"{file} cannot be downloaded: {_reason_for(error)}.") from error
            log.info(
                "%s: connection lost after %s; resuming",
                file,
                megabytes(_partial_size(folder, file)),
            )
            time.sleep(PAUSE_S)
            continue
        if location.md5 is not None and hash_md5(part) != location.md5:
            part.unlink()
            raise JobError(
                f"{file} is damaged or differs from the published file: its MD5 is not "
                f"{location.md5}. It was deleted; run the same command again."
            )
        return part


def hash_md5(path: Path) -> str:
    """Return the MD5 of a file as hexadecimal text; it detects damage, not manipulation."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def megabytes(size_bytes: int) -> str:
    """Return a size in bytes as text such as `12.3 MB` (10^6 bytes)."""
    return f"{size_bytes / 1e6:.1f} MB"


def _partial_size(folder: Path, file: str) -> int:
    return sum(path.stat().st_size for path in folder.glob(f"{file}.*.part"))


def _resume_download(url: str, part: Path, file: str) -> None:
    """Request the missing rest of `part` and append it; start again if the file has changed."""
    import requests

    offset = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
        first, size = _parse_content_range(response)
        is_partial = response.status_code == HTTPStatus.PARTIAL_CONTENT
        is_past_end = response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        if offset and is_past_end and size == offset:
            return
        # the file on the server has changed
        if offset and (is_past_end or (is_partial and first != offset)):
            part.unlink()
            _resume_download(url, part, file)
            return
        response.raise_for_status()
        offset = offset if is_partial else 0
        remaining = int(response.headers.get("Content-Length", 0))
        _check_size(offset + remaining, remaining, part, file)
        log.info(
            "%s: %s%s",
            file,
            megabytes(offset + remaining),
            f", of which {megabytes(offset)} are already downloaded" if offset else "",
        )
        with open(part, "ab" if is_partial else "wb") as stream:
            for _ in track(
                _receive(response, stream, offset), f"{file}, kB", total=remaining // 1000, unit=64
            ):
                pass


def _receive(response: requests.Response, stream: IO[bytes], offset: int) -> Iterator[None]:
    """Write the response to `stream`, yielding after each block; `offset` is the file's size."""
    while block := response.raw.read(BLOCK_BYTES, decode_content=False):
        offset += len(block)
        if offset > MAX_BYTES:
            raise JobError(f"The server sent more than the limit of {megabytes(MAX_BYTES)}.")
        stream.write(block)
        yield


def _check_size(size_bytes: int, remaining: int, part: Path, file: str) -> None:
    free = shutil.disk_usage(part.parent).free
    if size_bytes > MAX_BYTES:
        raise JobError(
            f"{file} has {megabytes(size_bytes)}, more than the limit of {megabytes(MAX_BYTES)}."
        )
    if remaining > free:
        raise JobError(
            f"{file} needs {megabytes(remaining)}, but {part.parent} has only {megabytes(free)} "
            "free. Free disk space, or choose another --data-dir."
        )


def _parse_content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the first byte and the total size from a Content-Range header.

    `bytes 5-9/10` gives (5, 10) and `bytes */10` gives (None, 10); a missing number gives None.
    """
    span, _, size = (
        response.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("/")
    )
    first = span.partition("-")[0]
    return (int(first) if first.isdigit() else None), (int(size) if size.isdigit() else None)


def _reason_for(error: Exception) -> str:
    """Return the reason of a failed request without the URL, which may be signed."""
    import requests

    if (
        isinstance(error, requests.HTTPError)
        and error.response is not None
        and not error.response.ok
    ):
        return f"the server returned {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server did not respond in time"
    cause = error.args[0] if error.args else type(error).__name__
    return str(getattr(cause, "reason", cause)).rpartition(": ")[2].rstrip(".")
