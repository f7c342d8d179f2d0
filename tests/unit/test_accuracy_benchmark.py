"""Rows of `python -m benchmarks accuracy`: their selection, and a training that fails."""

from __future__ import annotations

import pytest

from benchmarks.accuracy import ROWS, Row, select_rows


def test_rows_are_selected_by_family_and_variation() -> None:
    assert select_rows("") == ROWS
    names = [row.name for row in select_rows("shallow, deep_v2/hybrid")]
    assert names == ["deep_v2/hybrid", "shallow/svm_hog_lbp", "shallow/rf_hog_lbp"]


def test_unknown_row_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"unknown names: resnet\. Use .* deep_v2/resnet"):
        select_rows("shallow,resnet")


@pytest.mark.processes("the benchmark trains in a process of its own")
def test_message_of_a_training_that_fails_is_shown() -> None:
    with pytest.raises(SystemExit, match=r"--minutes 2 failed:\nError: --minutes is a setting of"):
        Row("shallow", "svm_hog_lbp", 0.6, 3).run(0, 2)
