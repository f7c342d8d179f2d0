"""Table of one row: medians of all participants, and ratios ours / theirs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

OURS = "eyevsai"


@dataclass(frozen=True)
class Metric:
    """Quantity of a row, by which participants are compared.

    Attributes:
        key: name in the measurements.
        title: title in the table, with the unit.
        higher_is_better: true for rates.
        target: factor by which eyevsai should be better than the best peer; None without a target.
    """

    key: str
    title: str
    higher_is_better: bool = False
    target: float | None = None


@dataclass(frozen=True)
class Cell:
    """Values of one metric of one participant, one for each repeat, or why there are none."""

    values: tuple[float, ...] = ()
    reason: str = ""

    @property
    def median(self) -> float | None:
        """Median of the repeats; None without values."""
        return statistics.median(self.values) if self.values else None


Cells = Mapping[str, Cell]  # by participant, eyevsai included


def ratio(ours: Cell, theirs: Cell) -> float | None:
    """Return the ratio ours / theirs of the medians; None if one of them is missing."""
    if ours.median is None or not theirs.median:
        return None
    return ours.median / theirs.median


def best_peer(metric: Metric, cells: Cells) -> str | None:
    """Return the peer with the best median; None if no peer has values."""
    medians = {
        name: cell.median
        for name, cell in cells.items()
        if name != OURS and cell.median is not None
    }
    if not medians:
        return None
    choose = max if metric.higher_is_better else min
    return choose(medians, key=lambda name: medians[name])


def advantage(metric: Metric, cells: Cells) -> float | None:
    """Return the factor by which eyevsai is better than the best peer; below 1, the peer wins."""
    peer = best_peer(metric, cells)
    quotient = ratio(cells[OURS], cells[peer]) if peer else None
    if quotient is None or (not quotient and not metric.higher_is_better):
        return None
    return quotient if metric.higher_is_better else 1 / quotient


def verdict(metric: Metric, cells: Cells) -> str:
    """Return the advantage over the best peer in words, with the target and whether it is met."""
    factor, peer = advantage(metric, cells), best_peer(metric, cells)
    if factor is None:
        return ""
    text = f"{factor:.2f} x {peer}"
    if metric.target is not None:
        text += f"; target {metric.target:g}: {'met' if factor >= metric.target else 'missed'}"
    return text if factor >= 1 else f"{text}; {peer} wins"


def format_value(value: float) -> str:
    """Return a value with three significant digits, or all digits before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def format_cell(cell: Cell, ours: Cell | None) -> str:
    """Return the median, the range of the repeats, and the ratio ours / theirs.

    Args:
        cell: values of the participant.
        ours: values of eyevsai; None for the cell of eyevsai itself.
    """
    if cell.median is None:
        return cell.reason or "not measured"
    text = format_value(cell.median)
    if len(cell.values) > 1:
        text += f" ({format_value(min(cell.values))}-{format_value(max(cell.values))})"
    quotient = ratio(ours, cell) if ours else None
    return text if quotient is None else f"{text}, {quotient:.2f}"


def format_table(metrics: Sequence[Metric], cells: Mapping[str, Cells]) -> str:
    """Return a Markdown table: a line for each participant, a column for each metric.

    A cell has the median, the range of the repeats, and the ratio ours / theirs. The last line
    compares eyevsai with the best peer.

    Args:
        metrics: columns.
        cells: cells by the key of the metric, each by participant.
    """
    names = list(dict.fromkeys(name for metric in metrics for name in cells[metric.key]))
    lines = [
        _line(["", *(metric.title for metric in metrics)]),
        "|---" * (len(metrics) + 1) + "|",
    ]
    for name in names:
        texts = [
            format_cell(
                cells[metric.key].get(name, Cell()),
                None if name == OURS else cells[metric.key].get(OURS),
            )
            for metric in metrics
        ]
        lines.append(_line([name, *texts]))
    lines.append(_line(["best peer", *(verdict(each, cells[each.key]) for each in metrics)]))
    return "\n".join(lines)


def _line(texts: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "/").replace("\n", " ") for text in texts) + " |"
