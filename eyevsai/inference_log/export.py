"""Export of answers and their labels to Parquet, in batches."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Select, select

from eyevsai.core.errors import write_error
from eyevsai.inference_log.ids import first_id
from eyevsai.inference_log.label_rules import Resolution, StoredLabel, resolve
from eyevsai.inference_log.reading import CHUNK
from eyevsai.inference_log.schema import answers, excluded_sources, labels
from eyevsai.inference_log.store import LogStore

if TYPE_CHECKING:
    import pyarrow as pa

_TEXTS = ("id", "arm", "status", "label", "error", "key_hash", "step", "shadow_of")
_INTEGERS = ("version", "width", "height", "bytes")
_FLOATS = ("probability", "model_ms", "queue_ms")
_VECTORS = {"probabilities": "<f2", "statistics": "<f4"}
_COLUMNS = ("seq", "at", *_TEXTS, *_INTEGERS, *_FLOATS, *_VECTORS, "sha256")
CLASSES = b"eyevsai.classes"  # key of the file's metadata: classes by version


def export_answers(
    store: LogStore,
    model: str,
    path: Path,
    *,
    since: float | None = None,
    until: float | None = None,
) -> int:
    """Write the answers of a model to a Parquet file, and return their number.

    `true_label` is the label that counts, `label_source` its source; `is_disputed` marks answers on
    which two persons disagree. The classes of each version are in the metadata of the file.

    Args:
        store: the log.
        model: name of the model.
        path: the file; it is replaced when all is written, and readable for its owner only.
        since: only answers from this time on, in Unix seconds.
        until: only answers before this time.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the file cannot be written.
    """
    import pyarrow.parquet as pq

    schema = _make_schema(store.version_classes(model))
    number = 0
    try:
        with _replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
            for rows, resolutions in _read(store, model, since, until):
                writer.write_table(_make_table(rows, resolutions, schema))
                number += len(rows)
    except OSError as error:
        raise write_error(path, error, "Choose another --file.") from error
    return number


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a new file, which replaces `path` at the end of the block."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(number)
    try:
        yield Path(name)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _read(
    store: LogStore, model: str, since: float | None, until: float | None
) -> Iterator[tuple[Sequence[Any], dict[str, Resolution]]]:
    """Yield the rows of answers with the labels of some of them, in batches."""
    wanted = select(*(answers.c[name] for name in _COLUMNS)).where(answers.c.model == model)
    if since is not None:
        wanted = wanted.where(answers.c.id >= first_id(since))
    if until is not None:
        wanted = wanted.where(answers.c.id < first_id(until))
    wanted = wanted.order_by(answers.c.seq).limit(CHUNK)
    last = 0
    while True:
        with store.reading() as connection:
            rows = connection.execute(wanted.where(answers.c.seq > last)).all()
            if not rows:
                return
            of_rows = _select_labels(rows[0].seq, rows[-1].seq)
            stored = connection.execute(of_rows).all()
        last = rows[-1].seq
        yield (
            rows,
            {
                answer_id: resolve([StoredLabel(*row[1:]) for row in group])
                for answer_id, group in groupby(stored, key=attrgetter("id"))
            },
        )


def _select_labels(first: int, last: int) -> Select[Any]:
    return (
        select(labels.c.id, labels.c.seq, labels.c.source, labels.c.label, labels.c.at)
        .join(answers, answers.c.id == labels.c.id)
        .where(
            answers.c.seq.between(first, last),
            labels.c.source.not_in(select(excluded_sources.c.source)),
        )
        .order_by(labels.c.id)
    )


def _make_schema(classes: dict[int, tuple[str, ...]]) -> pa.Schema:
    import pyarrow as pa

    fields = [pa.field("seq", pa.int64()), pa.field("at", pa.timestamp("us", tz="UTC"))]
    fields += [pa.field(name, pa.string()) for name in _TEXTS]
    fields += [pa.field(name, pa.int32()) for name in _INTEGERS]
    fields += [pa.field(name, pa.float32()) for name in _FLOATS]
    # float32: few programs read lists of float16
    fields += [pa.field(name, pa.list_(pa.float32())) for name in _VECTORS]
    fields += [
        pa.field("sha256", pa.binary()),
        pa.field("true_label", pa.string()),
        pa.field("label_source", pa.string()),
        pa.field("is_disputed", pa.bool_()),
    ]
    return pa.schema(fields, metadata={CLASSES: json.dumps(classes).encode()})


def _make_table(
    rows: Sequence[Any], resolutions: dict[str, Resolution], schema: pa.Schema
) -> pa.Table:
    import pyarrow as pa

    columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))
    truth = [resolutions.get(answer_id) for answer_id in columns["id"]]
    values: dict[str, Any] = columns | {
        "at": np.round(np.array(columns["at"]) * 1e6).astype(np.int64),
        "true_label": [None if each is None else each.label for each in truth],
        "label_source": [None if each is None else each.source for each in truth],
        "is_disputed": [each is not None and each.is_disputed for each in truth],
    }
    arrays = []
    for field in schema:
        if field.name in _VECTORS:
            arrays.append(_make_lists(columns[field.name], _VECTORS[field.name]))
        else:
            arrays.append(pa.array(values[field.name], type=field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def _make_lists(vectors: Sequence[bytes | None], dtype: str) -> pa.ListArray:
    """Return packed vectors as lists of float32; missing ones are null."""
    import pyarrow as pa

    size = np.dtype(dtype).itemsize
    lengths = [0 if vector is None else len(vector) // size for vector in vectors]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    packed = b"".join(vector for vector in vectors if vector is not None)
    numbers = np.frombuffer(packed, dtype=dtype).astype(np.float32)
    missing = pa.array([vector is None for vector in vectors])
    return pa.ListArray.from_arrays(offsets, pa.array(numbers), mask=missing)
