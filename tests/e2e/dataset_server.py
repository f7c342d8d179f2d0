"""A publisher of datasets on this machine: archives made here, served with ranges, cut off when a
test wants it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from PIL import Image

from tests.conftest import draw_image


def png(label: int, number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(draw_image(label, number)).save(stream, "png")
    return stream.getvalue()


def images_of(folders: Mapping[str, int], start: int = 0) -> dict[str, bytes]:
    """Images by path, as many below each folder as is said."""
    return {
        f"{folder}/{number:03d}.png": png(label + start, number)
        for label, (folder, count) in enumerate(folders.items())
        for number in range(count)
    }


def zip_of(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


@dataclass
class Publisher:
    """What is served by path; how; and what was asked for."""

    files: dict[str, bytes]
    url: str = ""
    # bytes of the body after which the next answers break off
    cut_after: list[int] = field(default_factory=list)
    hang_after: int | None = None  # bytes after which an answer waits for ever
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and range


@contextmanager
def publishing(files: Mapping[str, bytes]) -> Iterator[Publisher]:
    """Serves files; and, as Kaggle does, sends whoever asks its API for `owner/name` on to the file
    of that name.
    """
    publisher = Publisher(dict(files))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            path = urlsplit(self.path).path  # the whole URL where we are asked as a proxy
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            publisher.asked.append((path, None))
            file = f"/{asked['ownerSlug']}/{asked['datasetSlug']}"
            status = 302 if file in publisher.files else 403
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"http://localhost{file}?signature=secret")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            path, asked = urlsplit(self.path).path, self.headers.get("Range")
            publisher.asked.append((path, asked))
            body = publisher.files.get(path)
            if body is None:
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if asked and start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - start))
            # as Google's storage does
            if self.headers.get("Proxy-Connection") or self.path.startswith("http"):
                md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
                self.send_header("x-goog-hash", f"crc32c=AAAAAA==,md5={md5}")
            self.end_headers()
            cut = publisher.cut_after.pop(0) if publisher.cut_after else publisher.hang_after
            self.wfile.write(body[start:][:cut])
            self.wfile.flush()
            if cut is not None and cut == publisher.hang_after:
                time.sleep(60)
            self.close_connection = cut is not None

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(
            self, *_: object
        ) -> None:  # a client that hangs up, as those that are killed do
            pass

    server = Server(("127.0.0.1", 0), Handler)
    publisher.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield publisher
    finally:
        server.shutdown()
        server.server_close()
