"""Table of epochs and sparkline, as text."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from eyevsai.reports.epoch_table import (
    ASCII_BLOCKS,
    BLOCKS,
    render_epochs,
    select_epochs,
    sparkline,
)
from eyevsai.training.trainer_state import EpochMetrics

FRACTIONS = st.lists(st.floats(0, 1), max_size=200)


def make_epoch(accuracy: float) -> EpochMetrics:
    """Metrics of an epoch, as the trainer returns them."""
    return {
        "train/loss": 1.23456,
        "train/accuracy": 0.51239,
        "valid/loss": 1.0,
        "valid/accuracy": accuracy,
        "images_per_s": 1234.6,
        "lr": 0.00123456,
        "grad_accum_steps": 1,
    }


def draw(*accuracies: float, num_rows: int = 8, is_narrow: bool = False) -> list[list[str]]:
    """Return the words of each line of the table."""
    console = Console(file=io.StringIO(), width=100)
    history = [make_epoch(accuracy) for accuracy in accuracies]
    console.print(render_epochs(history, num_rows, is_narrow=is_narrow))
    text: str = console.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
    return [line.split() for line in text.splitlines()]


def test_sparkline_rises_from_the_lowest_to_the_highest_value() -> None:
    assert sparkline([0.0, 0.5, 1.0], 10) == "▁▅█"
    assert sparkline(range(8), 10) == BLOCKS
    assert sparkline(range(8), 10, is_ascii=True) == ASCII_BLOCKS
    assert sparkline([3.0, 1.0, 2.0], 10) == "█▁▅"


def test_sparkline_of_equal_values_or_none() -> None:
    assert sparkline([0.7, 0.7], 10) == "▁▁"
    assert sparkline([0.7], 10) == "▁"
    assert sparkline([], 10) == ""


def test_sparkline_averages_neighbours_that_share_a_column() -> None:
    assert sparkline([0.0, 0.2, 0.8, 1.0], 2) == "▁█"
    assert len(sparkline(range(1000), 40)) == 40


@example([0.0, 2.2250738585e-313], 2)
@given(FRACTIONS, st.integers(1, 60))
def test_sparkline_has_a_character_per_value_up_to_its_width(
    values: list[float], width: int
) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set(BLOCKS)
    if len(values) <= width and values and max(values) > min(values):
        assert line[values.index(max(values))] == BLOCKS[-1]
        assert line[values.index(min(values))] == BLOCKS[0]


@given(FRACTIONS.filter(bool), st.integers(1, 12))
def test_selected_epochs_include_the_last_and_the_best(values: list[float], num_rows: int) -> None:
    history = [make_epoch(value) for value in values]
    selected = select_epochs(history, num_rows)
    assert selected == sorted(set(selected))
    assert len(selected) == min(num_rows, len(history))
    assert selected[-1] == len(history) - 1
    if num_rows > 1:
        assert math.isclose(max(values[index] for index in selected), max(values))


def test_table_has_four_digits_and_marks_the_best_epoch() -> None:
    header, first, second = draw(0.912345, 0.5)
    assert " ".join(header) == (
        "epoch train loss train accuracy valid loss valid accuracy images/s lr"
    )
    assert first == ["*", "1", "1.2346", "0.5124", "1.0000", "0.9123", "1,235", "0.001235"]
    assert second[0] == "2"


def test_best_epoch_stays_above_the_last_ones() -> None:
    rows = draw(0.1, 0.9, 0.2, 0.3, 0.4, num_rows=3)[1:]
    assert [row[:2] for row in rows] == [["*", "2"], ["4", "1.2346"], ["5", "1.2346"]]


def test_narrow_table_has_losses_and_accuracies_only() -> None:
    header, row = draw(0.5, is_narrow=True)
    assert header[-2:] == ["valid", "accuracy"]
    assert len(row) == 6


@pytest.mark.parametrize("missing", ["images_per_s", "lr"])
def test_metric_that_an_epoch_lacks_is_an_empty_cell(missing: str) -> None:
    epoch = make_epoch(0.5)
    del epoch[missing]
    console = Console(file=io.StringIO(), width=100)
    console.print(render_epochs([epoch], 8))
    assert "0.5000" in console.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
