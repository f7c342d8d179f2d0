"""Reading of answers in blocks of NumPy arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import func, select

from eyevsai.core.errors import UserError
from eyevsai.inference_log.database import Database
from eyevsai.inference_log.ids import first_id
from eyevsai.inference_log.schema import answers

CHUNK = 50_000  # rows of a block: 2 MB per 20 classes
NUM_STATISTICS = 6
_COLUMNS = ("seq", "id", "at", "version", "arm", "status", "label", "probability", "model_ms",
            "probabilities", "statistics")  # fmt: skip
Texts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class AnswerBlock:
    """N answers in the order of their arrival.

    Missing values are None, or NaN in arrays of numbers: failed answers have no probabilities.
    """

    seq: npt.NDArray[np.int64]
    id: Texts
    at: npt.NDArray[np.float64]
    version: npt.NDArray[np.int32]
    arm: Texts
    status: Texts
    label: Texts
    probability: npt.NDArray[np.float32]
    model_ms: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float16]  # N,C; N,0 if all answers failed
    statistics: npt.NDArray[np.float32]  # N,6

    def __len__(self) -> int:
        return len(self.seq)


def read_answers(
    database: Database,
    model: str,
    *,
    version: int | None = None,
    arms: Sequence[str] | None = None,
    after_seq: int = 0,
    since: float | None = None,
    until: float | None = None,
    chunk: int = CHUNK,
) -> Iterator[AnswerBlock]:
    """Yield the answers of a model in blocks, in the order of `seq`.

    Each block is read in a transaction of its own, so that a slow reader does not hold back the
    server that writes.

    Args:
        database: the log.
        model: name of the model.
        version: only this version; needed if the versions have different numbers of classes.
        arms: only these arms.
        after_seq: only answers that arrived after this one.
        since: only answers from this time on, in Unix seconds of the server that answered.
        until: only answers before this time.
        chunk: largest number of rows of a block.

    Raises:
        LogUnavailableError: the database is unreachable.
        UserError: the answers of a block have different numbers of classes.
    """
    wanted = select(*(answers.c[name] for name in _COLUMNS)).where(answers.c.model == model)
    if version is not None:
        wanted = wanted.where(answers.c.version == version)
    if arms is not None:
        wanted = wanted.where(answers.c.arm.in_(arms))
    if until is not None:
        wanted = wanted.where(answers.c.id < first_id(until))
    if since is not None:
        wanted = wanted.where(answers.c.id >= first_id(since))
        after_seq = max(after_seq, _seq_before(database, since))
    wanted = wanted.order_by(answers.c.seq).limit(chunk)
    while True:
        with database.reading() as connection:
            rows = connection.execute(wanted.where(answers.c.seq > after_seq)).all()
        if not rows:
            return
        yield _make_block(rows)
        if len(rows) < chunk:
            return
        after_seq = rows[-1].seq


def _seq_before(database: Database, at: float) -> int:
    """Return a `seq` after which all answers since a time have arrived."""
    first = select(func.min(answers.c.seq)).where(answers.c.id >= first_id(at))
    with database.reading() as connection:
        seq = connection.scalar(first)
        if seq is None:
            seq = (connection.scalar(select(func.max(answers.c.seq))) or 0) + 1
    return int(seq) - 1


def _make_block(rows: Sequence[Any]) -> AnswerBlock:
    columns = dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True))
    return AnswerBlock(
        seq=np.array(columns["seq"], dtype=np.int64),
        at=np.array(columns["at"], dtype=np.float64),
        version=np.array(columns["version"], dtype=np.int32),
        id=_to_texts(columns["id"]),
        arm=_to_texts(columns["arm"]),
        status=_to_texts(columns["status"]),
        label=_to_texts(columns["label"]),
        # None becomes NaN
        probability=np.array(columns["probability"], dtype=np.float32),
        model_ms=np.array(columns["model_ms"], dtype=np.float32),
        probabilities=_to_matrix(columns["probabilities"], np.dtype("<f2")),
        statistics=_to_matrix(columns["statistics"], np.dtype("<f4"), NUM_STATISTICS),
    )


def _to_texts(values: Sequence[str | None]) -> Texts:
    array = np.empty(len(values), dtype=np.object_)
    array[:] = values
    return array


def _to_matrix(
    values: Sequence[bytes | None], dtype: np.dtype[Any], width: int | None = None
) -> npt.NDArray[Any]:
    """Return packed vectors as rows of an array; missing ones are NaN.

    Raises:
        UserError: the vectors have different lengths.
    """
    sizes = {len(value) for value in values if value is not None}
    if width is None:
        width = max(sizes, default=0) // dtype.itemsize
    size = width * dtype.itemsize
    if sizes - {size}:
        listed = " and ".join(str(each // dtype.itemsize) for each in sorted(sizes))
        raise UserError(
            f"The answers have vectors of {listed} values: versions with different classes. Read "
            "each version by itself."
        )
    missing = np.full(width, np.nan, dtype=dtype).tobytes()
    packed = b"".join(missing if value is None else value for value in values)
    return np.frombuffer(packed, dtype=dtype).reshape(len(values), width)
