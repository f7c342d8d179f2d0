"""list: what can be trained, on what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eyevsai.data.catalog import list_datasets
from eyevsai.models.factory import FAMILIES, get_family


def list_inventory(data_root: Path) -> dict[str, Any]:
    """Families with their variations, and datasets, each with its descriptions, as plain values."""
    return {
        "models": {
            name: {
                "title": get_family(name).title,
                "variations": {
                    variation: {
                        "title": about.title,
                        "technical": about.technical,
                        "simple": about.simple,
                    }
                    for variation, about in get_family(name).variations.items()
                },
            }
            for name in FAMILIES
        },
        "datasets": list_datasets(data_root),
    }
