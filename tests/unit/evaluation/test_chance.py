from __future__ import annotations

import math

import pytest

from eyevsai.evaluation.chance import chance_of

BALANCED = [*"abc"] * 18
IMBALANCED = [*"a" * 80, *"b" * 15, *"c" * 5]


def test_chance_of_accuracy_is_the_share_of_the_largest_class() -> None:
    even = chance_of("accuracy", BALANCED)
    assert (even.level, even.images) == (pytest.approx(1 / 3), 54)
    assert even.limit == pytest.approx(1 / 3 + 3 * math.sqrt(2 / 9 / 54))
    assert chance_of("accuracy", IMBALANCED).limit == pytest.approx(0.8 + 3 * 0.04)


def test_chance_of_macro_f1_counts_classes_equally() -> None:
    assert chance_of("macro_f1", BALANCED).limit == pytest.approx(
        chance_of("accuracy", BALANCED).limit
    )
    rare = chance_of("macro_f1", IMBALANCED)
    assert rare.level == pytest.approx(1 / 3)
    assert rare.standard_error > math.sqrt(2 / 9 / len(IMBALANCED))


def test_nothing_exceeds_chance_where_every_answer_is_right() -> None:
    assert chance_of("top5_accuracy", [*"abcde"] * 9).limit == 1
    assert chance_of("accuracy", ["a"] * 9).limit == 1
    assert chance_of("accuracy", [*"ab"] * 2).limit > 1  # too few images
