"""HTTP server that records the requests of a webhook."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from eyevsai.workflows.monitor.webhook import SIGNATURE

SECRET = "0123456789abcdef"


@dataclass
class Receiver:
    """Server that answers each request with a code; requests are path, signature and body."""

    url: str = ""
    code: int = 204
    location: str | None = None
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)


@contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """Run a server at a port of this machine, any free one by default."""
    received = Receiver()

    class Handler(BaseHTTPRequestHandler):
        """Handler of one request."""

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.requests.append((self.path, self.headers[SIGNATURE], body))
            self.send_response(received.code)
            if received.location:
                self.send_header("Location", received.location)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    received.url = f"http://127.0.0.1:{server.server_address[1]}/hook?team=a"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
