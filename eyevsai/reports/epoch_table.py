"""Epochs of a training as a terminal table, and their accuracies as a sparkline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table

from eyevsai.training.early_stopping import selection_key
from eyevsai.training.trainer_state import EpochMetrics

BLOCKS = "▁▂▃▄▅▆▇█"  # from the lowest to the highest value
ASCII_BLOCKS = "_.-:=+*#"  # for encodings without these characters
BEST = "*"  # mark of the best epoch
NARROW = 80  # columns below which `OPTIONAL` is left out
OPTIONAL = ("images_per_s", "lr")
# metrics in the order of the columns, with their titles and formats
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "train/loss": ("train loss", "{:.4f}".format),
    "train/accuracy": ("train accuracy", "{:.4f}".format),
    "valid/loss": ("valid loss", "{:.4f}".format),
    "valid/accuracy": ("valid accuracy", "{:.4f}".format),
    "images_per_s": ("images/s", "{:,.0f}".format),
    "lr": ("lr", "{:.4g}".format),
}


def find_best(history: Sequence[EpochMetrics]) -> int:
    """Return the index of the best epoch; `history` has one or more."""
    return max(range(len(history)), key=lambda index: selection_key(history[index]))


def select_epochs(history: Sequence[EpochMetrics], num_rows: int) -> list[int]:
    """Return the indices of at most `num_rows` epochs, ascending: the last ones and the best one.

    `num_rows` is 1 or more; the last epoch has precedence.
    """
    last = list(range(max(0, len(history) - num_rows), len(history)))
    if not last or num_rows == 1 or (best := find_best(history)) in last:
        return last
    return [best, *last[1:]]


def render_epochs(
    history: Sequence[EpochMetrics], num_rows: int, *, is_narrow: bool = False
) -> Table:
    """Return a table of the last epochs and the best one, which has a mark.

    Args:
        history: metrics of all epochs so far.
        num_rows: maximum number of rows; 1 or more.
        is_narrow: leave out the columns `OPTIONAL`.
    """
    columns = [name for name in COLUMNS if not is_narrow or name not in OPTIONAL]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("epoch", *(COLUMNS[name][0] for name in columns)):
        table.add_column(title, justify="right", no_wrap=True)
    for index in select_epochs(history, num_rows):
        metrics, is_best = history[index], index == find_best(history)
        cells = [COLUMNS[name][1](metrics[name]) if name in metrics else "" for name in columns]
        mark = BEST if is_best else ""
        table.add_row(f"{mark} {index + 1}".strip(), *cells, style="bold" if is_best else "")
    return table


def sparkline(values: Sequence[float], width: int, *, is_ascii: bool = False) -> str:
    """Return a line of characters whose heights show `values`, from the lowest to the highest.

    Equal values have the lowest height. If there are more values than columns, a character shows
    the mean of neighbouring ones.

    Args:
        values: finite numbers.
        width: maximum number of characters; 1 or more.
        is_ascii: use ASCII characters.
    """
    count = min(width, len(values))
    edges = [index * len(values) // count for index in range(count + 1)] if count else [0]
    means = [
        sum(values[start:end]) / (end - start) for start, end in zip(edges, edges[1:], strict=False)
    ]
    low, high = min(means, default=0.0), max(means, default=0.0)
    blocks = ASCII_BLOCKS if is_ascii else BLOCKS
    # shares of the span: its reciprocal would overflow for the smallest numbers
    shares = [(mean - low) / (high - low) if high > low else 0.0 for mean in means]
    return "".join(blocks[round(share * (len(blocks) - 1))] for share in shares)
