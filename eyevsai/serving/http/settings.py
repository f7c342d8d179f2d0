"""Settings of `serve`. Imports no heavy library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.settings import (
    STATE_DIR,
    Choice,
    Doc,
    NotLogged,
    Parameter,
    Range,
    Settings,
    StateDir,
)

HOST, PORT = "127.0.0.1", 5080


@dataclass(frozen=True)
class ServeSettings(Settings):
    """Server of a registered model."""

    PANEL: ClassVar[str] = "Server"

    name: Annotated[
        str | None,
        Parameter(),
        Doc("Registered model: NAME or NAME@ALIAS follows the alias, NAME/VERSION stays."),
    ] = None
    host: Annotated[str, NotLogged(), Doc("Address to listen on.")] = HOST
    port: Annotated[
        int, Range(0, 65535), Parameter(), NotLogged(), Doc("Port; 0 takes a free one.")
    ] = PORT
    metrics_port: Annotated[
        int | None,
        Range(0, 65535),
        NotLogged(),
        Doc("Port of /metrics on 127.0.0.1; by default it is a page of the server."),
    ] = None
    workers: Annotated[
        int | None,
        Range(1, 1024),
        NotLogged(),
        Doc("Threads that decode and predict; one per core by default."),
    ] = None
    queue: Annotated[
        int | None,
        Range(1, 10**6),
        NotLogged(),
        Doc("Images that may wait for a worker; more get 503. 16 per worker by default."),
    ] = None
    stuck_after_s: Annotated[
        float,
        Range(0.1, 3600.0),
        NotLogged(),
        Doc("Seconds after which a prediction gets 504, and its worker is replaced."),
    ] = 30.0
    poll_s: Annotated[
        float, Range(0.05, 3600.0), NotLogged(), Doc("Seconds between two looks at the registry.")
    ] = 5.0
    top_k: Annotated[
        int,
        Range(1, 10**6),
        Doc("Number of classes in an answer, unless the request has ?top_k."),
    ] = 5
    device: Annotated[
        str,
        Choice(("auto", "cpu", "cuda")),
        Doc("auto is cuda where torch finds it: networks then predict waiting images at once."),
    ] = "auto"
    class_change: Annotated[bool, Doc("Follow the alias to a version with other classes, too.")] = (
        False
    )
    state_dir: StateDir = STATE_DIR
