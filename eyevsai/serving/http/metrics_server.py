"""Server of `--metrics-port`: /metrics at a port of its own, on this machine only."""

from __future__ import annotations

import logging
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler

from eyevsai.serving.http.access import HostPolicy
from eyevsai.serving.http.errors import RequestError

log = logging.getLogger("eyevsai")

METRICS_HOST = "127.0.0.1"
TIMEOUT_S = 10.0  # for the headers of a request
POLL_S = 0.1  # after which `close` is noticed


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Log a failure; a client that closes the connection is none."""
        if not isinstance(sys.exception(), ConnectionError):
            log.exception("The metrics were not sent.")


class MetricsServer:
    """Threads that answer each GET with the metrics, until `close`.

    Args:
        port: port on METRICS_HOST; 0 takes a free one.
        metrics: the metrics.
        hosts: names and origins of requests that are answered; a web page whose name leads to this
            machine gets 403.

    Raises:
        OSError: the port cannot be used.
    """

    def __init__(self, port: int, metrics: CollectorRegistry, hosts: HostPolicy) -> None:
        class Handler(MetricsHandler):
            registry = metrics
            timeout = TIMEOUT_S

            def do_GET(self) -> None:  # noqa: N802, a name of http.server
                """Answer with the metrics, or with the reason of a refusal."""
                hosts_of, origins = (
                    [text.encode("latin-1", "replace") for text in self.headers.get_all(name, [])]
                    for name in ("Host", "Origin")
                )
                try:
                    hosts.check(hosts_of, origins)
                except RequestError as error:
                    self.send_error(error.status, explain=error.message)
                else:
                    super().do_GET()

        self._server = _Server((METRICS_HOST, port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(POLL_S,), daemon=True).start()

    def close(self) -> None:
        """Stop answering, and free the port."""
        self._server.shutdown()
        self._server.server_close()
