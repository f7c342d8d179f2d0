"""list: what can be trained, on what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eyevsai.data.catalog import list_datasets
from eyevsai.models.families import FAMILIES, family_of


def list_inventory(data_root: Path) -> dict[str, Any]:
    """Families with their variations, and datasets, each with its descriptions, as plain values."""
    return {
        "models": {
            name: {
                "title": family_of(name).title,
                "variations": {
                    variation: {
                        "title": about.title,
                        "technical": about.technical,
                        "simple": about.simple,
                    }
                    for variation, about in family_of(name).variations.items()
                },
            }
            for name in FAMILIES
        },
        "datasets": list_datasets(data_root),
    }
