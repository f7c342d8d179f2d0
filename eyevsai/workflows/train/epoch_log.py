"""Output about the epochs of a training run: log lines, or a live table on a terminal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from eyevsai.core.logging import FILE_ONLY, is_verbose
from eyevsai.core.progress import EtaEstimator, format_seconds
from eyevsai.core.terminal import is_live
from eyevsai.evaluation.metric_names import EPOCH_ACCURACY
from eyevsai.training.early_stopping import selection_key
from eyevsai.training.pace import TimeBudget
from eyevsai.training.trainer_state import EpochMetrics

if TYPE_CHECKING:
    from eyevsai.workflows.train.epoch_display import EpochDisplay

log = logging.getLogger("eyevsai")


class EpochLog:
    """Logger of epoch metrics, the best epoch so far, throughput and the estimated time left.

    A context manager: inside the block, a live terminal shows a table instead of the lines, unless
    there is one epoch only, or --verbose asks for all lines.
    """

    def __init__(self, num_epochs: int, budget: TimeBudget | None = None) -> None:
        """Start the log.

        Args:
            num_epochs: epochs of the training; not used with a time budget, whose epochs are not
                known.
            budget: time budget of the run.
        """
        self.num_epochs, self.budget = num_epochs, budget
        self._eta = EtaEstimator()
        self._display: EpochDisplay | None = None
        self._stack = ExitStack()

    def __enter__(self) -> EpochLog:
        self._eta = EtaEstimator()
        if not self._is_single and is_live() and not is_verbose():
            from eyevsai.workflows.train.epoch_display import EpochDisplay  # imports rich

            display = EpochDisplay(lambda epoch: self._describe_remaining(epoch).lstrip(", "))
            self._display = self._stack.enter_context(display)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._display = None

    def show(self, history: Sequence[EpochMetrics]) -> None:
        """Show the epochs of `history` on a live terminal, without log lines.

        A resumed run logged them in its earlier call.
        """
        if self._display:
            self._display.update(history)

    def log(self, history: Sequence[EpochMetrics]) -> None:
        """Log the last epoch of `history`, the metrics of all epochs so far.

        Writes one INFO line with accuracies and losses, and one DEBUG line with all metrics. The
        INFO line of a training of one epoch has no valid metrics, because they are the result. On a
        live terminal, the line is written to log files only. Call once after each epoch: the time
        left is estimated from the intervals between calls.
        """
        self._eta.step()
        epoch, metrics = len(history), history[-1]
        speed = f", {metrics['images_per_s']:,.0f} images/s" if "images_per_s" in metrics else ""
        log.info(
            "epoch %d%s  %strain accuracy %.4f, loss %.4f%s%s",
            epoch,
            "" if self.budget else f" of {self.num_epochs}",
            # the valid metrics of a single epoch are the result, which follows
            "" if self._is_single else f"{_describe_valid(history)}; ",
            metrics["train/accuracy"],
            metrics["train/loss"],
            speed,
            self._describe_remaining(epoch),
            extra=FILE_ONLY if self._display else None,
        )
        self.show(history)
        log.debug(
            "epoch %d: %s",
            epoch,
            "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()),
        )

    @property
    def _is_single(self) -> bool:
        return self.num_epochs == 1 and self.budget is None

    def _describe_remaining(self, epoch: int) -> str:
        if self.budget is None:
            return self._eta.remaining(self.num_epochs - epoch)
        seconds = max(0.0, self.budget.total_s - self.budget.elapsed())
        return f", {format_seconds(seconds)} of the time budget left"


def _describe_valid(history: Sequence[EpochMetrics]) -> str:
    """Return the valid metrics of the last epoch, and whether it is the best one."""
    metrics = history[-1]
    best = max(range(len(history)), key=lambda index: selection_key(history[index]))
    best_so_far = (
        "the best so far"
        if best == len(history) - 1
        else f"best {history[best][EPOCH_ACCURACY]:.4f} in epoch {best + 1}"
    )
    return (
        f"valid accuracy {metrics[EPOCH_ACCURACY]:.4f} ({best_so_far}), loss "
        f"{metrics['valid/loss']:.4f}"
    )
