"""Output that several commands share."""

from __future__ import annotations

import io
import sys

from eyevsai.store.uris import find_store, mask_password


def escape_unencodable() -> None:
    """Escape characters that the encoding of standard output lacks, instead of raising an error.

    A file or a pipe on Windows has the code page of the system, unless PYTHONUTF8 is set.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def format_view_hint() -> str:
    """Return a hint how to view a run: the server's URL without its password, or `eyevsai ui`."""
    uri = find_store()
    return (
        f"see it at {mask_password(uri)}" if uri.startswith("http") else "see it with: eyevsai ui"
    )
