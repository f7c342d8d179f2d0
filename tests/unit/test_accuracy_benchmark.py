"""Selection of the rows of `python -m benchmarks accuracy`."""

from __future__ import annotations

import pytest

from benchmarks.accuracy import ROWS, select_rows


def test_rows_are_selected_by_family_and_variation() -> None:
    assert select_rows("") == ROWS
    names = [row.name for row in select_rows("shallow, deep_v2/hybrid")]
    assert names == ["deep_v2/hybrid", "shallow/svm_hog_lbp", "shallow/rf_hog_lbp"]


def test_unknown_row_is_refused() -> None:
    with pytest.raises(SystemExit, match=r"unknown names: resnet\. Use .* deep_v2/resnet"):
        select_rows("shallow,resnet")
