"""Runs that are killed, at full size: row, tried, survived.

Row 1 here: twenty kills of deep_v1 at random steps, every fourth torn in the middle of a save, every second under
`mlflow run`; each goes on and must end as the run that nobody disturbed, bit by bit. The other rows at full size
are the slow tests: `make test-all`, or `python -m pytest tests/faults -m slow`.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from tests.conftest import write_images
from tests.faults.runs import EPOCHS, STEPS, Place, survives

KILLS = 20


def make_place(folder: Path, data: Path, *, by_mlflow: bool = False) -> Place:
    folder.mkdir()
    return Place(folder, data, by_mlflow)


def main() -> None:
    choose = random.Random(0)
    print(f"{'row':<6}{'tried':>8}{'survived':>10}")
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        data = write_images(root / "stripes", {"across": 20, "down": 20, "wide": 20})
        whole = make_place(root / "whole", data)
        done = whole.run()
        if done.returncode != 0:
            raise SystemExit(done.stderr)
        expected = whole.outcome(whole.run_ids()[0])
        survived = 0
        for number in range(KILLS):
            step, save = choose.randint(STEPS + 1, STEPS * EPOCHS), choose.randint(2, EPOCHS)
            fault = f"torn:{save}" if number % 4 == 3 else f"kill:{step}"
            place = make_place(root / f"place {number}", data, by_mlflow=number % 2 == 1)
            survived += survives(place, fault, expected)
    print(f"{'1':<6}{KILLS:>8}{survived:>10}", flush=True)
