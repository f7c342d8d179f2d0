"""Runs of the participants of a row, in turn, and the cells of its table."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.environments import (
    PEERS,
    InstallationError,
    clean_environment,
    prepare,
)
from benchmarks.peers.measure import Measurement, measure
from benchmarks.peers.participants import Participant, Row, Step
from benchmarks.peers.table import Cell
from benchmarks.variables import read_number

REPEATS = read_number("EYEVSAI_BENCHMARK_ROUNDS", 3, 1)
ROOT = Path(__file__).parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
Results = dict[str, list[Measurement]]


@dataclass(frozen=True)
class Prepared:
    """Participants of a row before they run.

    Attributes:
        interpreters: Python interpreter of each participant.
        reasons: participants that cannot be measured here, and why.
    """

    interpreters: dict[str, Path]
    reasons: dict[str, str]


def measure_row(
    row: Row,
    data: Path,
    images: int,
    prepared: Prepared,
    announce: Callable[[str, int], None] = lambda title, repeat: None,
) -> Results:
    """Run the participants of a row in turn, in each repeat; print and return their measurements.

    Args:
        row: the row.
        data: folder of the images; the participants work in new folders next to it.
        images: number of images.
        prepared: interpreters of the participants.
        announce: called with a participant and the number of the repeat before each run.
    """
    results: Results = {}
    for repeat in range(REPEATS):
        for title, participant in row.participants.items():
            if title in prepared.reasons or (repeat and not participant.is_repeated):
                continue
            announce(title, repeat)
            with tempfile.TemporaryDirectory(dir=data.parent) as work:
                result = _run(
                    participant,
                    prepared.interpreters[title],
                    Path(work),
                    data,
                    repeat=repeat,
                    timeout_s=row.timeout_s,
                )
            result.values.update(row.derive(result.values, images))
            results.setdefault(title, []).append(result)
            shown = {key: round(value, 3) for key, value in result.values.items()}
            print(f"  {repeat + 1} {title}: {result.error or shown}", flush=True)
    return results


def make_cells(row: Row, results: Results, reasons: dict[str, str]) -> dict[str, dict[str, Cell]]:
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


def prepare_row(row: Row) -> Prepared:
    """Return the interpreter of each participant, and why some cannot be measured."""
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
    return Prepared(interpreters, reasons)


def _run(
    participant: Participant, python: Path, work: Path, data: Path, *, repeat: int, timeout_s: float
) -> Measurement:
    """Run the steps of a participant one after another; return their values in one measurement."""
    values: dict[str, float] = {}
    for step in participant.steps(data, repeat):
        is_ours = not participant.environment
        result = run_step(step, python, participant.script, work, timeout_s, is_ours=is_ours)
        if result.error:
            return Measurement(values, result.error)
        wall, peak = result.values["wall_s"], result.values["peak_mib"]
        peak = max(peak, values.get("peak_mib", 0.0))
        values |= result.values | {"peak_mib": peak}
        if step.key:
            values[step.key] = wall
    return Measurement(values)


def run_step(
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
