"""Faults at full size, those of runs that are killed among them: row, tried, survived.

Most rows are the tests that bear their number, the slow ones too, each injecting its fault for
real; a test counts as one trial where it does not say how many it made. `python -m benchmarks
faults` takes about an hour; `EYEVSAI_ROWS=1,5 python -m benchmarks faults` measures some.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.photographs import PHOTOS

ROOT = Path(__file__).parents[1]
KILLS, MUTANTS, PER_FOLDER = 20, 60_000, 6_000
NAMES, NAMES_LIMIT_S = 10_000, 2.0

Outcome = tuple[int, int]  # tried, survived


def row_1() -> Outcome:
    """Kills of deep_v1 at random steps, every fourth torn in the middle of a save, half of them
    under `mlflow run`.

    Each run is gone on with and must end as the run that nobody disturbed, bit by bit.
    """
    from tests.conftest import write_images
    from tests.robustness.runs import EPOCHS, STEPS, Sandbox, survives

    def make_sandbox(folder: Path, *, by_mlflow: bool = False) -> Sandbox:
        folder.mkdir()
        return Sandbox(folder, data, by_mlflow)

    choose = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = write_images(root / "stripes", {"across": 20, "down": 20, "wide": 20})
        whole = make_sandbox(root / "whole")
        done = whole.run()
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        expected = whole.outcome(whole.run_ids()[0])
        survived = 0
        for number in range(KILLS):
            step, save = choose.randint(STEPS + 1, STEPS * EPOCHS), choose.randint(2, EPOCHS)
            fault = f"torn:{save}" if number % 4 == 3 else f"kill:{step}"
            sandbox = make_sandbox(root / f"sandbox {number}", by_mlflow=number % 2 == 1)
            survived += survives(sandbox, fault, expected)
    return KILLS, survived


def row_3() -> Outcome:
    """Mutated images: each is either decoded or named once, and none is changed."""
    from eyevsai.data.catalog import DatasetFolder
    from eyevsai.data.curation import curate
    from tests.robustness.mutation import write_mutants

    survived = 0
    for seed in range(MUTANTS // PER_FOLDER):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "set" / "a"
            folder.mkdir(parents=True)
            before = {path: path.read_bytes() for path in write_mutants(folder, PER_FOLDER, seed)}
            found = curate(DatasetFolder("set", {"set": folder.parent}), Path(name) / "cache")
            named = [file.path for file, _ in found.bad]
            used = {item.file.path for item in found.samples}
            for path, content in before.items():
                survived += (path in used) + named.count(path) == 1 and path.read_bytes() == content
    return MUTANTS, survived


def row_9() -> Outcome:
    """Photographs of which each stands in train and, as an equal copy, in test: none is left in
    both.
    """
    from eyevsai.data.catalog import DatasetFolder
    from eyevsai.data.curation import curate

    paths = sorted(PHOTOS.glob("*/*/*.jpg"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "set"
        for split in ("train", "test"):
            for path in paths:
                target = root / split / path.parent.name / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        found = curate(DatasetFolder("set", {"set": root}), Path(name) / "cache")
        left = {item.record.pixels for item in found.samples if item.file.split == "train"}
        kept = {item.record.pixels for item in found.samples if item.file.split == "test"}
    return len(paths), len(paths) - len(left & kept)


def row_19() -> Outcome:
    """Ten thousand non-ASCII names, hidden folders and a loop: each file once, within two
    seconds.
    """
    from eyevsai.data.catalog import DatasetFolder
    from eyevsai.data.image_folder import index_dataset

    with tempfile.TemporaryDirectory() as name:
        for label in ("ñandú", "日本"):
            (Path(name) / label).mkdir()
            for number in range(NAMES // 2):
                (Path(name) / label / f"{number} ü.png").touch()
        (Path(name) / "日本" / "loop").symlink_to(name)
        (Path(name) / ".hidden").mkdir()
        began = time.perf_counter()
        files = index_dataset(DatasetFolder("set", {"set": Path(name)})).files
        seconds = time.perf_counter() - began
    return NAMES, len({file.path for file in files}) if seconds < NAMES_LIMIT_S and len(
        files
    ) == NAMES else 0


def tests_of(row: int) -> Outcome:
    """The tests of a requirement, slow ones too."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "tests",
            f"--requirement={row}",
            f"--junitxml={report.name}",
        ]
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr)
        cases = ElementTree.parse(report.name).iter("testcase")
        outcomes = [_outcome(case) for case in cases if case.find("skipped") is None]
    if not outcomes:
        raise SystemExit(f"No test of requirement {row} could run here: see above for the reason.")
    return sum(tried for tried, _ in outcomes), sum(survived for _, survived in outcomes)


def _outcome(case: ElementTree.Element) -> Outcome:
    said = {each.get("name"): int(each.get("value", 0)) for each in case.iter("property")}
    passed = case.find("failure") is None and case.find("error") is None
    tried = said.get("tried", 1)
    return tried, tried if passed else min(said.get("survived", 0), tried - 1)


def main() -> None:
    rows: dict[int, Callable[[], Outcome]] = {
        row: lambda row=row: tests_of(row)  # type: ignore[misc]
        for row in (2, 4, 5, 6, 12, 13, 16, 18, 23, 25)
    }
    rows |= {1: row_1, 3: row_3, 19: row_19}
    if PHOTOS.is_dir():
        rows[9] = row_9
    wanted = [int(row) for row in os.environ.get("EYEVSAI_ROWS", "").split(",") if row] or sorted(
        rows
    )
    if unknown := [row for row in wanted if row not in rows]:
        raise SystemExit(
            f"Row {unknown[0]} cannot be measured here; these can: "
            f"{', '.join(map(str, sorted(rows)))}."
        )
    print(f"{'row':<6}{'tried':>8}{'survived':>10}")
    for row in wanted:
        tried, survived = rows[row]()
        print(f"{row:<6}{tried:>8}{survived:>10}", flush=True)
