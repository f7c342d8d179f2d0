"""Windows of a stream of logged answers: traffic, failures, latency, and their comparison."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from eyevsai.core.json import to_json
from eyevsai.evaluation.comparison import WindowComparer, WindowComparison
from eyevsai.evaluation.monitor_settings import MIN_IMAGES
from eyevsai.inference_log.records import CANDIDATE, OK, PRODUCTION

if TYPE_CHECKING:
    from eyevsai.inference_log.reading import AnswerBlock

MAX_WINDOWS = 100
# Answers of a window that are compared with the reference, evenly spaced: more would find only
# differences that are too small to matter.
MAX_COMPARED = 1000
SERVED = (PRODUCTION, CANDIDATE)  # arms whose answers clients received


@dataclass(frozen=True)
class LiveWindow:
    """Consecutive answers of one version; times are Unix times in seconds.

    `p50_ms` and `p99_ms` are percentiles of the model time; None if no answer has one.
    `comparison` is None if fewer than `MIN_IMAGES` answers have probabilities.
    """

    first_at: float
    last_at: float
    answers: int
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    comparison: WindowComparison | None

    @property
    def is_drift(self) -> bool:
        """True if the probabilities differ from the reference."""
        return self.comparison is not None and self.comparison.drift.is_alarm

    def to_json(self) -> dict[str, Any]:
        """Return the window as JSON values."""
        return vars(self) | {"comparison": to_json(self.comparison), "is_drift": self.is_drift}


@dataclass(frozen=True)
class AnswerColumns:
    """Columns of consecutive answers, each of length M."""

    at: npt.NDArray[np.float64]
    is_ok: npt.NDArray[np.bool_]
    ms: npt.NDArray[np.float32]  # model time; NaN if unknown
    probabilities: npt.NDArray[np.float16]  # M,C; NaN for failed answers
    statistics: npt.NDArray[np.float32]  # M,6

    def __len__(self) -> int:
        return len(self.at)

    def slice(self, start: int, end: int) -> AnswerColumns:
        """Return a range of the answers."""
        return AnswerColumns(*(column[start:end] for column in vars(self).values()))


def select_columns(block: AnswerBlock) -> AnswerColumns:
    """Return the columns of a block that windows are made from."""
    return AnswerColumns(
        block.at, block.status == OK, block.model_ms, block.probabilities, block.statistics
    )


def choose_size(answers: int, size: int) -> int:
    """Return the answers per window: `size`, or more if there would be over `MAX_WINDOWS`."""
    return max(size, -(-answers // MAX_WINDOWS))


def measure_windows(
    columns: Iterable[AnswerColumns], size: int, comparer: WindowComparer
) -> Iterator[LiveWindow]:
    """Yield the windows of a stream of answers; memory is that of one window and one part.

    The rest is a window of its own.

    Args:
        columns: parts of the stream in the order of arrival.
        size: answers per window.
        comparer: reference of the version.
    """
    pending, length = list[AnswerColumns](), 0
    for part in columns:
        pending.append(part)
        length += len(part)
        if length < size:
            continue
        joined = _join(pending)
        whole = length - length % size
        for start in range(0, whole, size):
            yield _measure(joined.slice(start, start + size), comparer)
        pending, length = [joined.slice(whole, length)], length - whole
    if length:
        yield _measure(_join(pending), comparer)


def _join(parts: list[AnswerColumns]) -> AnswerColumns:
    if len(parts) == 1:
        return parts[0]
    # a block of failed answers has no columns of probabilities
    width = max(part.probabilities.shape[1] for part in parts)
    same = [part if part.probabilities.shape[1] else _widen(part, width) for part in parts]
    columns = zip(*(vars(part).values() for part in same), strict=True)
    return AnswerColumns(*(np.concatenate(column) for column in columns))


def _widen(part: AnswerColumns, width: int) -> AnswerColumns:
    """Return failed answers with NaN for the probabilities of `width` classes."""
    missing = np.full((len(part), width), np.nan, dtype=np.float16)
    return replace(part, probabilities=missing)


def _measure(window: AnswerColumns, comparer: WindowComparer) -> LiveWindow:
    known_ms = window.ms[window.is_ok & np.isfinite(window.ms)]
    p50, p99 = np.percentile(known_ms, [50, 99]) if len(known_ms) else (None, None)
    return LiveWindow(
        float(window.at.min()),
        float(window.at.max()),
        len(window),
        int((~window.is_ok).sum()),
        None if p50 is None else float(p50),
        None if p99 is None else float(p99),
        _compare(window, comparer),
    )


def _compare(window: AnswerColumns, comparer: WindowComparer) -> WindowComparison | None:
    """Compare evenly spaced answers of a window with the reference; None if they are too few."""
    has_all = np.isfinite(window.statistics).all(axis=1)
    is_finite = np.isfinite(window.probabilities).all(axis=1)
    rows = np.flatnonzero(window.is_ok & has_all & is_finite)
    if len(rows) < MIN_IMAGES:
        return None
    if len(rows) > MAX_COMPARED:
        rows = rows[np.linspace(0, len(rows) - 1, MAX_COMPARED).astype(np.intp)]
    return comparer.compare(window.probabilities[rows], window.statistics[rows])
