"""Numbers of things in words."""

from __future__ import annotations

import pytest

from eyevsai.core.quantities import format_count


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 epochs"), (1, "1 epoch"), (2, "2 epochs"), (1200, "1,200 epochs")]
)
def test_a_noun_agrees_with_its_number(number: int, words: str) -> None:
    assert format_count(number, "epoch") == words
