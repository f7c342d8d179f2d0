"""Fingerprints: digests of what the result of a run depends on, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eyevsai.core.hashing import hash_file

PACKAGE = Path(__file__).parents[1]


def hash_code() -> dict[str, str]:
    """Return the first 16 characters of the SHA-256 of each module of the package, by its path."""
    return {
        path.relative_to(PACKAGE).as_posix(): hash_file(path)[:16]
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def describe_change(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return how two mappings of names to digests differ, in words; empty if they are equal."""
    added, gone = sorted(now.keys() - before.keys()), sorted(before.keys() - now.keys())
    changed = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    parts = []
    for word, names in (("added", added), ("gone", gone), ("changed", changed)):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            parts.append(f"{len(names)} {word} ({shown})")
    return "; ".join(parts)
