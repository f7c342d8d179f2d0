"""Faults at full size: row, tried, survived. The same faults stand at small counts in tests/faults/."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PHOTOS = Path(os.environ.get("EYEVSAI_DATA", "../shared/photos"))
MUTANTS, PER_FOLDER = 60_000, 6_000
BOMBS = ((9_500, 9_500), (13_000, 13_700), (30_000, 30_000), (65_000, 65_000))
NAMES, NAMES_LIMIT_S, BOMB_LIMIT_MIB = 10_000, 2.0, 200

Outcome = tuple[int, int]  # tried, survived


def row_3() -> Outcome:
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


def row_9() -> Outcome:
    """Photographs of which each stands in train and, as an equal copy, in test: none is left in both."""
    from eyevsai.data.catalogue import Source
    from eyevsai.data.inspection import inspect_source

    paths = sorted(PHOTOS.glob("*/*/*.jpg"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "set"
        for split in ("train", "test"):
            for path in paths:
                target = root / split / path.parent.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        found = inspect_source(Source("set", {"set": root}), Path(name) / "cache")
        left = {item.record.pixels for item in found.items if item.file.split == "train"}
        kept = {item.record.pixels for item in found.items if item.file.split == "test"}
    return len(paths), len(paths) - len(left & kept)


def row_18() -> Outcome:
    """Decompression bombs: refused by name, the peak of memory rises by less than 200 MiB."""
    from tests.faults.test_images import MEASURE_BOMB, bomb

    survived = 0
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "bomb.png"
        for width, height in BOMBS:
            path.write_bytes(bomb(width, height))
            done = subprocess.run([sys.executable, "-c", MEASURE_BOMB, str(path)], capture_output=True, text=True)
            error, rise_mib = json.loads(done.stdout)
            survived += "89 million" in error and rise_mib < BOMB_LIMIT_MIB
    return len(BOMBS), survived


def row_19() -> Outcome:
    """Ten thousand non-ASCII names, hidden folders and a loop: each file once, within two seconds."""
    from eyevsai.data.catalogue import Source
    from eyevsai.data.index import index_files

    with tempfile.TemporaryDirectory() as name:
        for label in ("ñandú", "日本"):
            (Path(name) / label).mkdir()
            for number in range(NAMES // 2):
                (Path(name) / label / f"{number} ü.png").touch()
        (Path(name) / "日本" / "loop").symlink_to(name)
        (Path(name) / ".hidden").mkdir()
        began = time.perf_counter()
        files = index_files(Source("set", {"set": Path(name)})).files
        seconds = time.perf_counter() - began
    return NAMES, len({file.path for file in files}) if seconds < NAMES_LIMIT_S and len(files) == NAMES else 0


def main() -> None:
    rows: dict[str, Callable[[], Outcome]] = {"3": row_3, "18": row_18, "19": row_19}
    if PHOTOS.is_dir():
        rows["9"] = row_9
    print(f"{'row':<6}{'tried':>8}{'survived':>10}")
    for name, check in rows.items():
        tried, survived = check()
        print(f"{name:<6}{tried:>8}{survived:>10}", flush=True)
