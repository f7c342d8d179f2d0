"""Worker processes for decoding; everything else of a run happens in one process."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from eyevsai.core.errors import UserError
from eyevsai.core.progress import track

S = TypeVar("S")
T = TypeVar("T")
CHUNK = 64  # what a worker takes at a time: bounds memory, whatever the size of the dataset


@dataclass(frozen=True)
class _Chunks(Dataset[Any], Generic[S, T]):
    """A task over chunks of items, as the dataset that a DataLoader hands out to its workers."""

    task: Callable[[Sequence[S]], T]
    items: Sequence[S]

    def __len__(self) -> int:
        return math.ceil(len(self.items) / CHUNK)

    def __getitem__(self, number: int) -> T | UserError | OSError:
        if number >= len(self):
            raise IndexError(number)
        try:
            return self.task(self.items[number * CHUNK : (number + 1) * CHUNK])
        except (UserError, OSError) as error:
            # handed over as it is; the loader would rewrite its message
            return error


def parallel_map(task: Callable[[Sequence[S]], T], items: Sequence[S], label: str) -> Iterator[T]:
    """`task` of every 64 items, in order, computed in as many processes as torch has threads here.

    `task` is a function of a module or a dataclass with `__call__`: where a system cannot fork, it
    is sent to the workers. A set of up to 64 items is done without any.

    Raises:
        UserError or OSError: what the first failing task raised, or that a worker died.
    """
    chunks = _Chunks(task, items)
    workers = min(torch.get_num_threads(), len(chunks)) if len(chunks) > 1 else 0
    loader: DataLoader[Any] = DataLoader(
        chunks,
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_start,
        generator=torch.Generator(),  # else the loader draws from torch's global state
    )
    for outcome in track(_check_workers(loader), label, unit=CHUNK, total=len(items)):
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome


def _check_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    outcomes = iter(loader)
    while True:
        try:
            yield next(outcomes)
        except StopIteration:
            return
        except RuntimeError as error:
            raise UserError(
                f"A process that read images ended before its time ({error}). Is memory short?"
            ) from error


def _as_it_is(outcome: T) -> T:
    return outcome


def _start(_: int) -> None:
    # Ctrl-C reaches all processes; the parent ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
