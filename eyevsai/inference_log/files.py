"""Files of labels: CSV tables, and exports of Label Studio in JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.errors import UserError, read_error, write_error
from eyevsai.inference_log.records import Label, shorten, source_problem

ID, LABEL, SOURCE, AT = "id", "label", "source", "at"
ID_COLUMNS = (ID, "answer_id", "eyevsai_id")
TASK_ID = "eyevsai_id"  # key of a task's data in Label Studio
CHOICE = "label"  # name of the choices in the labelling configuration
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters that a spreadsheet computes


@dataclass(frozen=True)
class Row:
    """A label of a file, or the reason why a row has none, with the position of the row."""

    where: str
    label: Label | str


def read_labels(path: Path, source: str) -> Iterator[Row]:
    """Yield the labels of a file, CSV or the JSON of Label Studio, in the order of the file.

    Args:
        path: the file; `.json` is read as JSON.
        source: source of the rows without one.

    Raises:
        UserError: the file cannot be read, or has no column of ids or labels.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            if path.suffix.lower() == ".json":
                yield from _read_label_studio(path, stream.read(), source)
            else:
                yield from _read_table(path, stream, source)
    except OSError as error:
        raise read_error(path, error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"Cannot read {path}: it is not UTF-8 text.") from error


def _read_table(path: Path, lines: Iterator[str], source: str) -> Iterator[Row]:
    """Yield the labels of a table, line by line: it can be larger than the memory."""
    first = next(lines, "")
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(chain([first], lines), delimiter=delimiter)
    try:
        header = [name.strip().casefold() for name in next(reader, [])]
        of_id = next((header.index(name) for name in ID_COLUMNS if name in header), None)
        if of_id is None or LABEL not in header:
            raise UserError(
                f"{path} has no columns id and label; it has {', '.join(header) or 'none'}. Name "
                "them in the first row."
            )
        for number, cells in enumerate(reader, 2):
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
            if len(cells) <= of_id or not row.get(LABEL):
                continue  # a suggestion that nobody has labelled yet
            where = f"{path}, row {number}"
            person = row.get(SOURCE) or source
            label, answer_id = unescape_cell(row[LABEL]), cells[of_id].strip()
            yield _make_row(where, answer_id, label, person, row.get(AT, ""))
    except csv.Error as error:
        raise UserError(f"Cannot read {path}: it is not a CSV table ({error}).") from error


def _make_row(where: str, answer_id: str, label: str, source: str, time: str) -> Row:
    try:
        return Row(where, Label(answer_id, label, source, _parse_time(time)))
    except ValueError:
        hint = "use Unix seconds or a time such as 2026-11-30T12:00:00Z"
        return Row(where, f"{shorten(time)} is no time; {hint}")


def _parse_time(text: str) -> float | None:
    """Return Unix seconds of a number or of ISO 8601 text; None if it is empty.

    Raises:
        ValueError: it is neither.
    """
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=time.tzinfo or UTC).timestamp()
    if not 0 <= seconds < math.inf:
        raise ValueError(text)
    return seconds


def _read_label_studio(path: Path, text: str, source: str) -> Iterator[Row]:
    """Yield the choices of a Label Studio export, JSON or JSON-MIN.

    The source of an annotation is `person:` and the number of its annotator.
    """
    try:
        tasks = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"Cannot read {path}: it is not JSON ({error}).") from error
    if not isinstance(tasks, list):
        raise UserError(f"{path} is no export of Label Studio: a list of tasks is expected.")
    for number, task in enumerate(tasks, 1):
        where = f"{path}, task {number}"
        if not isinstance(task, Mapping):
            raise UserError(f"{where} is no task of Label Studio: an object is expected.")
        data = task.get("data", task)
        answer_id = data.get(TASK_ID) if isinstance(data, Mapping) else None
        if not isinstance(answer_id, str):
            raise UserError(
                f"{where} has no {TASK_ID} in its data. Import the tasks of `eyevsai feedback "
                "suggest` into Label Studio, and export those."
            )
        annotations = task.get("annotations", [task])  # JSON-MIN has none
        for annotation in annotations if isinstance(annotations, list) else []:
            if isinstance(annotation, Mapping) and not annotation.get("was_cancelled"):
                yield from _read_annotation(annotation, answer_id, source, where)


def _read_annotation(
    annotation: Mapping[str, Any], answer_id: str, source: str, where: str
) -> Iterator[Row]:
    choices = _find_choices(annotation)
    if not choices:  # skipped by the annotator
        return
    if len(choices) > 1:
        yield Row(where, f"it has {len(choices)} choices; use single choices in Label Studio")
        return
    annotator = annotation.get("completed_by", annotation.get("annotator"))
    number = annotator.get("id") if isinstance(annotator, Mapping) else annotator
    person = source if number is None else f"person:label-studio-{number}"
    time = annotation.get("updated_at") or annotation.get("created_at") or ""
    yield _make_row(where, answer_id, choices[0], person, str(time))


def _find_choices(annotation: Mapping[str, Any]) -> list[str]:
    """Return the selected classes of an annotation; values of another form are skipped."""
    if "result" not in annotation:  # JSON-MIN
        values = [annotation.get(CHOICE)]
    else:
        results = annotation["result"]
        values = [
            each.get("value")
            for each in (results if isinstance(results, list) else [])
            if isinstance(each, Mapping)
        ]
    names = list[str]()
    for value in values:
        choices = value.get("choices") if isinstance(value, Mapping) else value
        listed = choices if isinstance(choices, list) else [choices]
        names += [each for each in listed if isinstance(each, str)]
    return names


def escape_cell(value: object) -> object:
    """Return a cell that a spreadsheet does not compute: text like a formula gets an apostrophe."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value


def unescape_cell(text: str) -> str:
    """Return the text of a cell that `escape_cell` may have changed."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a CSV table whose cells are safe in a spreadsheet.

    Raises:
        UserError: the file cannot be written.
    """
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[escape_cell(cell) for cell in row] for row in rows])
    write_text(path, stream.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a file, which exists only when it is complete.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        raise write_error(path, error, "Choose another --file.") from error


def check_source(source: str) -> None:
    """Raise UserError unless a text is a source of labels."""
    if problem := source_problem(source):
        raise UserError(f"--source {source!r} is not valid: {problem}.")
