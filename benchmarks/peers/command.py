"""Command `python -m benchmarks peers [ROW ...]`: comparison with other projects.

Installs each peer in an environment of its own below `~/.cache/eyevsai-benchmarks/peers`, with the
versions of torch and torchvision that eyevsai uses. Then the participants of a row run in turn, in
new processes on the same two cores, from the same copies of the photographs; the medians of three
repeats are reported, and their ratios ours / theirs. Peak memory is the anonymous and shared memory
of the process and its workers. A participant that fails, and a peer that cannot do the work, have
the reason in their cell. `scale` measures eyevsai alone, by the number of images. `accuracy`
compares the accuracy after equal times of training; it takes hours, and runs only if it is named.

EYEVSAI_BENCHMARK_ROUNDS sets the number of repeats. Linux only.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.accuracy import ACCURACY, report_accuracy
from benchmarks.peers.participants import Row
from benchmarks.peers.rows import CORES, ROWS
from benchmarks.peers.runner import REPEATS, make_cells, measure_row, prepare_row, run_step
from benchmarks.peers.scale import SCALE, report_scale
from benchmarks.peers.table import format_table
from benchmarks.photographs import PHOTOS, are_missing


def main(arguments: Sequence[str] = ()) -> None:
    """Measure the named rows, or all except `accuracy`, and print their tables.

    Exits with an error if a name is unknown.
    """
    names = list(arguments) or [*ROWS, SCALE]
    if unknown := [name for name in names if name not in (*ROWS, ACCURACY, SCALE)]:
        choices = ", ".join((*ROWS, ACCURACY, SCALE))
        sys.exit(f"There is no row {unknown[0]!r}. Known: {choices}.")
    if are_missing():
        return
    os.environ["EYEVSAI_DATA"] = str(PHOTOS.resolve())
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    for name in names:
        if name == SCALE:
            report_scale(run_step)
        elif name == ACCURACY:
            report_accuracy()
        else:
            report(name, ROWS[name])


def report(name: str, row: Row) -> None:
    """Measure one row, and print its table."""
    prepared = prepare_row(row)
    with tempfile.TemporaryDirectory() as root:
        data = Path(root) / "photographs"
        data.mkdir()
        images = row.write_data(data)
        results = measure_row(row, data, images, prepared)
    print(f"### {name}: {row.title}; {images:,} images, {REPEATS} repeats\n")
    print(format_table(row.metrics, make_cells(row, results, prepared.reasons)), flush=True)
