"""What commands print in common."""

from __future__ import annotations

from eyevsai.store.uris import find_store, mask_password


def where_to_view() -> str:
    """Return how to see a run in MLflow's UI."""
    uri = find_store()
    return (
        f"see it at {mask_password(uri)}" if uri.startswith("http") else "see it with: eyevsai ui"
    )
