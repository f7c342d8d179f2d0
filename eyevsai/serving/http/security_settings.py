"""Settings of the server's security and of its limits on requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.settings import Doc, Env, NotLogged, Range, Settings


@dataclass(frozen=True)
class SecuritySettings(Settings):
    """Tokens, TLS, and the host names under which the server can be reached."""

    PANEL: ClassVar[str] = "Security"

    token_file: Annotated[
        str | None,
        Env("EYEVSAI_TOKEN_FILE"),
        NotLogged(),
        Doc(
            "File of tokens, one per line: SCOPES TOKEN, with the scopes predict, feedback, "
            "metrics, admin separated by commas. It is read again when it changes."
        ),
    ] = None
    tls_cert: Annotated[
        str | None, NotLogged(), Doc("PEM file of the TLS certificate and its chain.")
    ] = None
    tls_key: Annotated[str | None, NotLogged(), Doc("PEM file of the certificate's key.")] = None
    behind_proxy: Annotated[
        bool,
        NotLogged(),
        Doc("A proxy in front of the server ends TLS; clients need a token even on loopback."),
    ] = False
    allowed_hosts: Annotated[
        str | None,
        NotLogged(),
        Doc("Further host names of the server, separated by commas, as clients write them."),
    ] = None


@dataclass(frozen=True)
class LimitSettings(Settings):
    """Limits on the requests of clients."""

    PANEL: ClassVar[str] = "Limits"

    max_body_mb: Annotated[
        float, Range(0.001, 1000.0), NotLogged(), Doc("Largest body of a request in MB.")
    ] = 20.0
    max_megapixels: Annotated[
        float,
        Range(0.01, 89.0),
        NotLogged(),
        Doc("Most pixels of a request's images together, in millions."),
    ] = 25.0
    max_megapixels_in_flight: Annotated[
        float,
        Range(0.01, 1e5),
        NotLogged(),
        Doc("Most pixels that are decoded at the same time, in millions; others get status 503."),
    ] = 100.0
    max_images: Annotated[
        int, Range(1, 100_000), NotLogged(), Doc("Largest number of images in a request.")
    ] = 1000
    max_in_flight: Annotated[
        int,
        Range(1, 100_000),
        NotLogged(),
        Doc("Requests that are read or answered at a time; others get status 503."),
    ] = 256
    max_connections: Annotated[
        int, Range(1, 100_000), NotLogged(), Doc("Open connections; others are closed.")
    ] = 800
    header_timeout_s: Annotated[
        float, Range(0.1, 600.0), NotLogged(), Doc("Seconds to receive the headers of a request.")
    ] = 10.0
    body_timeout_s: Annotated[
        float, Range(0.1, 600.0), NotLogged(), Doc("Seconds to receive the body of a request.")
    ] = 20.0
    max_rate: Annotated[
        float | None,
        Range(0.01, 1e6),
        NotLogged(),
        Doc(
            "Requests per second of one token, or of one address without tokens; no limit by "
            "default."
        ),
    ] = None
    feedback_rate: Annotated[
        float,
        Range(0.01, 1e6),
        NotLogged(),
        Doc("The same for feedback, each request of which can contain many labels."),
    ] = 100.0

    @property
    def max_body(self) -> int:
        """Largest body of a request in bytes."""
        return int(self.max_body_mb * 1e6)

    @property
    def max_pixels(self) -> int:
        """Most pixels of the images of a request."""
        return int(self.max_megapixels * 1e6)
