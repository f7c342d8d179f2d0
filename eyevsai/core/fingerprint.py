"""Fingerprints: digests of the inputs of a run, and the differences between two of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eyevsai.core.hashing import hash_file

PACKAGE = Path(__file__).parents[1]


def hash_code() -> dict[str, str]:
    """Return the first 16 hexadecimal digits of the SHA-256 of each module, by its path.

    The keys are POSIX paths relative to the package.
    """
    return {
        path.relative_to(PACKAGE).as_posix(): hash_file(path)[:16]
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def describe_change(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    """Describe the differences between two mappings of names to digests; empty if they are equal.

    Lists the numbers of added, removed and changed names, and up to three names of each.
    """
    added, removed = sorted(after.keys() - before.keys()), sorted(before.keys() - after.keys())
    changed = sorted(name for name in before.keys() & after.keys() if before[name] != after[name])
    parts = []
    for word, names in (("added", added), ("removed", removed), ("changed", changed)):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            parts.append(f"{len(names)} {word} ({shown})")
    return "; ".join(parts)
