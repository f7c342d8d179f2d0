"""Faults at full size: row, tried, survived. The same faults stand at small counts in tests/faults/."""

from __future__ import annotations

import tempfile
from pathlib import Path

MUTANTS, PER_FOLDER = 60_000, 6_000


def row_3() -> tuple[int, int]:
    """Mutated images: each is either decoded or named once, and none is changed."""
    from eyevsai.data.catalogue import Source
    from eyevsai.data.inspection import inspect_source
    from tests.faults.mutation import write_mutants

    survived = 0
    for seed in range(MUTANTS // PER_FOLDER):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "set" / "a"
            folder.mkdir(parents=True)
            before = {path: path.read_bytes() for path in write_mutants(folder, PER_FOLDER, seed)}
            found = inspect_source(Source("set", {"set": folder.parent}), Path(name) / "cache")
            named = [file.path for file, _ in found.bad]
            used = {item.file.path for item in found.items}
            for path, content in before.items():
                survived += (path in used) + named.count(path) == 1 and path.read_bytes() == content
    return MUTANTS, survived


def main() -> None:
    print(f"{'row':<6}{'tried':>8}{'survived':>10}")
    for name, check in (("3", row_3),):
        tried, survived = check()
        print(f"{name:<6}{tried:>8}{survived:>10}", flush=True)
