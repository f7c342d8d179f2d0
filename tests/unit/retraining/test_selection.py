"""Selection of newly labelled images."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eyevsai.retraining.selection import (
    RECENT,
    TRAIN,
    VALID,
    BaseGroups,
    NewImage,
    Unused,
    choose_valid_fraction,
    select_images,
)

NOTHING = BaseGroups({}, {}, frozenset())


def images(count: int) -> list[NewImage]:
    return [NewImage(f"{number}", "a", number, f"pixels {number}") for number in range(count)]


def test_shares() -> None:
    counts = select_images(images(4000), NOTHING, 0.2, 0.1).counts()
    assert 720 < counts[RECENT] < 880
    assert 260 < counts[VALID] < 380


def test_few_new_images_are_all_trained_on() -> None:
    assert choose_valid_fraction(200, 1000, 0.15) == 0.0
    assert choose_valid_fraction(1000, 1000, 0.15) == 0.15
    counts = select_images(images(1000), NOTHING, 0.2, 0.0).counts()
    assert set(counts) == {RECENT, TRAIN}


def test_leaks_duplicates_and_disputes_are_not_used() -> None:
    base = BaseGroups(
        {1: {"test"}, 2: {"valid"}, 3: {"train"}, 4: {"train"}},
        {1: {"a"}, 2: {"a"}, 3: {"a"}, 4: {"b"}},
        {"known"},
    )
    new = [
        NewImage("like test", "a", 1, "p1"),
        NewImage("like valid", "a", 2, "p2"),
        NewImage("like train", "a", 3, "p3"),
        NewImage("other class", "a", 4, "p4"),
        NewImage("same pixels", "a", 5, "known"),
        NewImage("x one", "a", 6, "p6"),
        NewImage("x two", "b", 6, "p7"),
        NewImage("y one", "a", 7, "p8"),
        NewImage("y two", "a", 7, "p8"),
    ]
    selection = select_images(new, base, 0.2, 0.1)
    assert selection.unused == {
        "like test": Unused.LEAK,
        "like valid": Unused.LEAK,
        "other class": Unused.DISPUTED,
        "same pixels": Unused.DUPLICATE,
        "x one": Unused.DISPUTED,
        "x two": Unused.DISPUTED,
        "y two": Unused.DUPLICATE,
    }
    assert selection.splits["like train"] == TRAIN
    assert set(selection.splits) == {"like train", "y one"}


new_images = st.lists(
    st.builds(
        NewImage,
        st.text(min_size=1, max_size=8),
        st.sampled_from("ab"),
        st.integers(0, 5),
        st.text(min_size=1, max_size=8),
    ),
    unique_by=lambda each: each.name,
)


@given(new_images, new_images)
def test_images_of_recent_stay_there(before: list[NewImage], added: list[NewImage]) -> None:
    """More labels never move an image from `recent` to training; groups are never divided."""
    names = {each.name for each in before}
    later = [*before, *(each for each in added if each.name not in names)]
    first, second = (select_images(each, NOTHING, 0.3, 0.2) for each in (before, later))
    for name, split in first.splits.items():
        if split == RECENT:
            assert second.splits.get(name, RECENT) == RECENT
    assert set(second.splits) | set(second.unused) == {each.name for each in later}
    for group in {each.group for each in later}:
        members = [each.name for each in later if each.group == group]
        assert len({second.splits[name] for name in members if name in second.splits}) <= 1
