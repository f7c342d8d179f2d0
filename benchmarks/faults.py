"""Fault injection at full scale: trials and survived trials of each requirement.

The rows are numbers of requirements in docs/requirements.md. Most rows run the tests that are
marked with the number, slow ones included; each test injects the fault, and counts as one trial
unless it records the number of its trials. `python -m benchmarks faults` takes about an hour;
`EYEVSAI_ROWS=1,5 python -m benchmarks faults` measures some rows.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.photographs import PHOTOS
from benchmarks.variables import read_numbers

ROOT = Path(__file__).parents[1]
KILLS, MUTANTS, PER_FOLDER = 20, 60_000, 6_000
NAMES, NAMES_LIMIT_S = 10_000, 2.0

Outcome = tuple[int, int]  # number of trials, and of survived trials


def row_1() -> Outcome:
    """Kill trainings of deep_v1 at random steps, and resume them; half run under `mlflow run`.

    Every fourth one is killed while it writes a checkpoint. A trial survives if the resumed run is
    bit-identical to an uninterrupted run.
    """
    from tests.conftest import write_images
    from tests.robustness.runs import EPOCHS, STEPS, Sandbox, survives

    def make_sandbox(folder: Path, *, by_mlflow: bool = False) -> Sandbox:
        folder.mkdir()
        return Sandbox(folder, data, by_mlflow)

    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = write_images(root / "stripes", {"across": 20, "down": 20, "wide": 20})
        uninterrupted = make_sandbox(root / "whole")
        process = uninterrupted.run()
        if process.returncode != 0:
            raise SystemExit(process.stderr)
        expected = uninterrupted.outcome(uninterrupted.run_ids()[0])
        survived = 0
        for number in range(KILLS):
            step, save = rng.randint(STEPS + 1, STEPS * EPOCHS), rng.randint(2, EPOCHS)
            fault = f"torn:{save}" if number % 4 == 3 else f"kill:{step}"
            sandbox = make_sandbox(root / f"sandbox {number}", by_mlflow=number % 2 == 1)
            survived += survives(sandbox, fault, expected)
    return KILLS, survived


def row_3() -> Outcome:
    """Check mutated images: each is either used or reported once, and no file is changed."""
    from eyevsai.data.catalog import DatasetFolder
    from eyevsai.data.curation import curate
    from tests.robustness.mutation import write_mutants

    survived = 0
    for seed in range(MUTANTS // PER_FOLDER):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "set" / "a"
            folder.mkdir(parents=True)
            before = {path: path.read_bytes() for path in write_mutants(folder, PER_FOLDER, seed)}
            curated = curate(DatasetFolder("set", {"set": folder.parent}), Path(name) / "cache")
            reported = [file.path for file, _ in curated.bad]
            used = {item.file.path for item in curated.samples}
            for path, content in before.items():
                is_classified = (path in used) + reported.count(path) == 1
                survived += is_classified and path.read_bytes() == content
    return MUTANTS, survived


def row_9() -> Outcome:
    """Check photographs with an equal copy in both train and test: none is used in both."""
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
        curated = curate(DatasetFolder("set", {"set": root}), Path(name) / "cache")
        train = {item.record.pixels for item in curated.samples if item.file.split == "train"}
        test = {item.record.pixels for item in curated.samples if item.file.split == "test"}
    return len(paths), len(paths) - len(train & test)


def row_19() -> Outcome:
    """Index 10,000 files with non-ASCII names beside a hidden folder and a symlink loop.

    Each file must be found once, within two seconds in total.
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
        start = time.perf_counter()
        files = index_dataset(DatasetFolder("set", {"set": Path(name)})).files
        seconds = time.perf_counter() - start
    return NAMES, len({file.path for file in files}) if seconds < NAMES_LIMIT_S and len(
        files
    ) == NAMES else 0


def tests_of(row: int) -> Outcome:
    """Run the tests of a requirement, slow ones included, and sum up their outcomes."""
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
        raise SystemExit(f"All tests of requirement {row} were skipped; see the reasons above.")
    return sum(trials for trials, _ in outcomes), sum(survived for _, survived in outcomes)


def _outcome(case: ElementTree.Element) -> Outcome:
    recorded = {each.get("name"): int(each.get("value", 0)) for each in case.iter("property")}
    passed = case.find("failure") is None and case.find("error") is None
    trials = recorded.get("tried", 1)
    return trials, trials if passed else min(recorded.get("survived", 0), trials - 1)


def main() -> None:
    rows: dict[int, Callable[[], Outcome]] = {
        row: lambda row=row: tests_of(row)  # type: ignore[misc]
        for row in (2, 4, 5, 6, 12, 13, 16, 18, 23, 25, 26, 27)
    }
    rows |= {1: row_1, 3: row_3, 19: row_19}
    if PHOTOS.is_dir():
        rows[9] = row_9
    selected = read_numbers("EYEVSAI_ROWS", sorted(rows), int, 1)
    if unknown := [row for row in selected if row not in rows]:
        raise SystemExit(
            f"EYEVSAI_ROWS: there is no row {unknown[0]}. Known: "
            f"{', '.join(map(str, sorted(rows)))}."
        )
    print(f"{'row':<6}{'trials':>8}{'survived':>10}")
    for row in selected:
        trials, survived = rows[row]()
        print(f"{row:<6}{trials:>8}{survived:>10}", flush=True)
