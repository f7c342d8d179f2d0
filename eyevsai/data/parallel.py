"""Worker processes for decoding images and extracting features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eyevsai.core.errors import UserError
from eyevsai.core.process_tree import ignore_group_signals
from eyevsai.core.progress import track

S = TypeVar("S")
T = TypeVar("T")
CHUNK = 64  # items of one call in a worker: memory does not depend on the dataset's size


@dataclass(frozen=True)
class _Chunks(Dataset[Any], Generic[S, T]):
    """Dataset of a DataLoader: item i is the result of the task for the i-th chunk of items."""

    task: Callable[[Sequence[S]], T]
    items: Sequence[S]

    def __len__(self) -> int:
        return math.ceil(len(self.items) / CHUNK)

    def __getitem__(self, number: int) -> T | UserError | OSError:
        if number >= len(self):
            raise IndexError(number)
        try:
            result = self.task(self.items[number * CHUNK : (number + 1) * CHUNK])
        except (UserError, OSError) as error:
            # returned, not raised: the loader would change the message
            return error
        if isinstance(result, Tensor):
            # torch sends tensors through /dev/shm, and waits for ever if that is full
            raise TypeError("A task must return arrays instead of tensors.")
        return result


def parallel_map(task: Callable[[Sequence[S]], T], items: Sequence[S], label: str) -> Iterator[T]:
    """Yield the results of `task` for each chunk of 64 items, in order.

    There are as many worker processes as torch has threads, at most one for each chunk. Up to 64
    items are computed in this process. A progress bar is displayed.

    Args:
        task: picklable callable, such as a module's function, or a dataclass with `__call__`: it is
            sent to the workers on systems without fork. It returns no tensors.
        items: items to process.
        label: label of the progress bar.

    Raises:
        UserError: raised by `task` for the first failing chunk, or a worker process died.
        OSError: raised by `task` for the first failing chunk.
    """
    chunks = _Chunks(task, items)
    workers = min(torch.get_num_threads(), len(chunks)) if len(chunks) > 1 else 0
    loader: DataLoader[Any] = DataLoader(
        chunks,
        batch_size=None,
        num_workers=workers,
        collate_fn=_return_unchanged,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # keeps torch's global generator unchanged
    )
    for outcome in track(_check_workers(loader), label, unit=CHUNK, total=len(items)):
        if isinstance(outcome, Exception):
            raise outcome
        yield outcome


def _check_workers(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the loader's results; raise UserError if a worker process died."""
    outcomes = iter(loader)
    while True:
        try:
            yield next(outcomes)
        except StopIteration:
            return
        except RuntimeError as error:
            raise UserError(
                f"A worker process for images exited unexpectedly ({error}). Free some memory."
            ) from error


def _return_unchanged(outcome: T) -> T:
    return outcome


def _ignore_interrupts(_: int) -> None:
    # Ctrl-C signals all processes of the group; the parent stops its workers.
    ignore_group_signals()
