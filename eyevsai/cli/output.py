"""Output that several commands share."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from eyevsai.store.ui_links import make_link, version_page
from eyevsai.store.uris import find_store, mask_password


def escape_unencodable() -> None:
    """Escape characters that the encoding of standard output lacks, instead of raising an error.

    A file or a pipe on Windows has the code page of the system, unless PYTHONUTF8 is set.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def format_run_hint(run_id: str) -> str:
    """Return how to view a run in MLflow's UI, with its link."""
    from eyevsai.tracking.links import link_to_run

    uri = find_store()
    return _format_hint(uri, link_to_run(uri, run_id))


def format_comparison_hint(run_ids: Sequence[str]) -> str:
    """Return how to view a comparison of runs in MLflow's UI; only with a link if they exist."""
    from eyevsai.tracking.links import link_to_comparison

    uri = find_store()
    return _format_hint(uri, link_to_comparison(uri, run_ids))


def format_version_hint(name: str, number: int) -> str:
    """Return how to view a version of a registered model in MLflow's UI, with its link."""
    uri = find_store()
    return _format_hint(uri, make_link(uri, version_page(name, number)))


def _format_hint(uri: str, link: str) -> str:
    """Return how to view a page: its link on a server, or `eyevsai ui` and its link there.

    Args:
        uri: tracking URI of the store.
        link: URL of the page; empty if the page does not exist.
    """
    if uri.startswith("http"):
        return f"see it at {link or mask_password(uri)}"
    return "\n".join(["see it with: eyevsai ui", *filter(None, [link])])
