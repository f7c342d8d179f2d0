"""Command `python -m benchmarks peers [ROW ...]`: comparison with other projects.

Installs each peer in an environment of its own below `~/.cache/eyevsai-benchmarks/peers`, with the
versions of torch and torchvision that eyevsai uses. Then the participants of a row run in turn, in
new processes on the same two cores, from the same copies of the photographs; the medians of three
repeats are reported, and their ratios ours / theirs. Peak memory is the anonymous and shared memory
of the process and its workers. A participant that fails, and a peer that cannot do the work, have
the reason in their cell. `scale` measures eyevsai alone, by the number of images.

EYEVSAI_BENCHMARK_ROUNDS sets the number of repeats. Linux only.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers.environments import (
    PEERS,
    InstallationError,
    clean_environment,
    prepare,
)
from benchmarks.peers.measure import Measurement, measure
from benchmarks.peers.participants import Participant, Row, Step
from benchmarks.peers.rows import CORES, ROWS
from benchmarks.peers.scale import SCALE, report_scale
from benchmarks.peers.table import Cell, format_table
from benchmarks.photographs import PHOTOS, are_missing

REPEATS = int(os.environ.get("EYEVSAI_BENCHMARK_ROUNDS", "3"))
ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"


def main(arguments: Sequence[str] = ()) -> None:
    """Measure the named rows, or all of them, and print their tables.

    Exits with an error if a name is unknown.
    """
    names = list(arguments) or [*ROWS, SCALE]
    if unknown := [name for name in names if name not in (*ROWS, SCALE)]:
        sys.exit(f"There is no row {unknown[0]!r}. Known: {', '.join((*ROWS, SCALE))}.")
    if are_missing():
        return
    os.environ["EYEVSAI_DATA"] = str(PHOTOS.resolve())
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    for name in names:
        if name == SCALE:
            report_scale(_run_step)
        else:
            report(name, ROWS[name])


def report(name: str, row: Row) -> None:
    """Measure one row, and print its table."""
    interpreters, reasons = _prepare(row)
    results: dict[str, list[Measurement]] = {}
    with tempfile.TemporaryDirectory() as root:
        data = Path(root) / "photographs"
        data.mkdir()
        images = row.write_data(data)
        for repeat in range(REPEATS):
            for title, participant in row.participants.items():
                if title in reasons:
                    continue
                with tempfile.TemporaryDirectory(dir=root) as work:
                    result = _run(
                        participant,
                        interpreters[title],
                        Path(work),
                        data,
                        repeat=repeat,
                        timeout_s=row.timeout_s,
                    )
                result.values.update(row.derive(result.values, images))
                results.setdefault(title, []).append(result)
                shown = {key: round(value, 3) for key, value in result.values.items()}
                print(f"  {repeat + 1} {title}: {result.error or shown}", flush=True)
    print(f"### {name}: {row.title}; {images:,} images, {REPEATS} repeats\n")
    print(format_table(row.metrics, make_cells(row, results, reasons)), flush=True)


def make_cells(
    row: Row, results: dict[str, list[Measurement]], reasons: dict[str, str]
) -> dict[str, dict[str, Cell]]:
    """Return the cells of a table, by metric and participant.

    Args:
        row: the row.
        results: measurements of each participant, one for each repeat.
        reasons: participants that were not measured, and why.
    """
    cells: dict[str, dict[str, Cell]] = {}
    for metric in row.metrics:
        cells[metric.key] = {}
        for title, participant in row.participants.items():
            measured = results.get(title, [])
            errors = [each.error for each in measured if each.error]
            values = tuple(
                each.values[metric.key] for each in measured if metric.key in each.values
            )
            reason = reasons.get(title) or participant.missing.get(metric.key)
            if errors and (not values or len(errors) == len(measured)):
                cells[metric.key][title] = Cell(reason=errors[0])
            else:
                cells[metric.key][title] = Cell(values, reason or "")
        cells[metric.key] |= {title: Cell(reason=text) for title, text in row.absent.items()}
    return cells


def _prepare(row: Row) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the interpreter of each participant, and why peers cannot be installed."""
    from eyevsai.training.device import has_fast_bfloat16

    interpreters: dict[str, Path] = {}
    reasons: dict[str, str] = {}
    for title, participant in row.participants.items():
        if participant.needs_bfloat16 and not has_fast_bfloat16():
            reasons[title] = "not measured: this CPU has no instructions for bfloat16"
            continue
        if not participant.environment:
            interpreters[title] = Path(sys.executable)
            continue
        try:
            interpreters[title] = prepare(PEERS[participant.environment])
        except InstallationError as error:
            reasons[title] = str(error)
    return interpreters, reasons


def _run(
    participant: Participant, python: Path, work: Path, data: Path, *, repeat: int, timeout_s: float
) -> Measurement:
    """Run the steps of a participant one after another; return their values in one measurement."""
    values: dict[str, float] = {}
    for step in participant.steps(data, repeat):
        is_ours = not participant.environment
        result = _run_step(step, python, participant.script, work, timeout_s, is_ours=is_ours)
        if result.error:
            return Measurement(values, result.error)
        wall, peak = result.values["wall_s"], result.values["peak_mib"]
        peak = max(peak, values.get("peak_mib", 0.0))
        values |= result.values | {"peak_mib": peak}
        if step.key:
            values[step.key] = wall
    return Measurement(values)


def _run_step(
    step: Step, python: Path, script: str, work: Path, timeout_s: float, *, is_ours: bool
) -> Measurement:
    command = [str(python), *step.command]
    if step.task:
        command = [str(python), str(SCRIPTS / script), step.task, json.dumps(dict(step.arguments))]
    env = clean_environment(os.environ)
    if is_ours:
        env |= {
            "PYTHONPATH": str(ROOT),
            "EYEVSAI_CACHE": str(work / "cache"),
            "EYEVSAI_STATE": str(work / "state"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{work}/mlflow.db",
        }
    else:
        env |= {"YOLO_CONFIG_DIR": str(work / "yolo")}
    return measure(command, work, env, timeout_s, prints_values=bool(step.task and not step.key))
