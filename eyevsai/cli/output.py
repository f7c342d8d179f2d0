"""Output that several commands share."""

from __future__ import annotations

from eyevsai.store.uris import find_store, mask_password


def format_view_hint() -> str:
    """Return a hint how to view a run: the server's URL without its password, or `eyevsai ui`."""
    uri = find_store()
    return (
        f"see it at {mask_password(uri)}" if uri.startswith("http") else "see it with: eyevsai ui"
    )
