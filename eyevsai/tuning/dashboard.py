"""Web server for studies, by optuna-dashboard."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.storages import BaseStorage

from eyevsai.core.errors import UserError
from eyevsai.core.extras import missing_extra
from eyevsai.store.uris import mask_password, sqlite_path
from eyevsai.tuning.journals import JournalsStorage
from eyevsai.tuning.storage import StudyStorage

log = logging.getLogger("eyevsai")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # an open connection of a browser must not delay the shutdown


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


@contextmanager
def serve_studies(folder: Path, url: str | None, host: str, port: int) -> Iterator[WSGIServer]:
    """Open a server of optuna-dashboard, and close it at the end of the block.

    The caller runs its `serve_forever`.

    Args:
        folder: folder with the journals of the studies, used if `url` is None.
        url: URL of a database with studies.
        host: address to listen on.
        port: port to listen on; 0 selects a free one.

    Raises:
        UserError: optuna-dashboard is not installed, the database does not exist or cannot be
            opened, or no studies exist.
    """
    if find_spec("optuna_dashboard") is None:
        raise missing_extra("--optuna", "dashboard")
    from optuna_dashboard import wsgi

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = _open(folder, url)
    if not storage.get_all_studies():
        raise UserError(
            f"There are no studies in {mask_password(url) if url else folder}. Start one with "
            "eyevsai tune, or name another database with --storage."
        )
    with make_server(
        host, port, wsgi(storage), server_class=_Server, handler_class=_Handler
    ) as server:
        yield server


def _open(folder: Path, url: str | None) -> BaseStorage:
    if url is None:
        return JournalsStorage(folder)
    path = sqlite_path(url)
    if path is not None and not path.exists():  # opening it would create it
        raise UserError(f"There is no database {path}. Check --storage.")
    return StudyStorage(url, folder).open()
