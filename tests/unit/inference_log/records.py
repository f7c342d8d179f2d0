"""Answers and logs for tests of the inference log."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from eyevsai.inference_log.ids import Identities
from eyevsai.inference_log.images import ImageFolder
from eyevsai.inference_log.records import Answer, Version
from eyevsai.inference_log.store import LogStore
from eyevsai.inference_log.suggestions import Suggestion, record_selection, select_answers

MODEL = "digits"
CLASSES = ("zero", "one", "two")
IDENTITIES = Identities(b"a secret of the tests")


def make_answer(index: int = 0, **values: Any) -> Answer:
    """An answer with the class and the probabilities of `index`."""
    row = np.roll(np.array([0.7, 0.2, 0.1], dtype=np.float32), index % 3)
    best = int(row.argmax())
    given = {
        "id": IDENTITIES.new_id(),
        "at": time.time(),
        "model": MODEL,
        "version": 1,
        "label": CLASSES[best],
        "probability": float(row[best]),
        "probabilities": row,
        "statistics": np.arange(6, dtype=np.float32) + index,
        "model_ms": 9.5,
        "sha256": index.to_bytes(32),
    }
    return Answer(**given | values)


def make_log(folder: Path, count: int = 0, **values: Any) -> tuple[LogStore, list[Answer]]:
    """A SQLite log with `count` answers."""
    store = LogStore.open(f"sqlite:///{folder / 'log.db'}")
    store.add_versions([Version(MODEL, 1, CLASSES)])
    answers = [make_answer(index, **values) for index in range(count)]
    store.add_answers(answers)
    return store, answers


def count_rows(store: LogStore, table: str) -> int:
    """The number of rows of a table."""
    with store.reading() as connection:
        return int(connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())


def suggest(
    store: LogStore, count: int, *, folder: ImageFolder | None = None, **values: Any
) -> list[Suggestion]:
    """Select answers of the log, and record them."""
    return record_selection(store, select_answers(store, MODEL, count, **values), folder)
