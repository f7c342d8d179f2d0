"""The part of eyevsai in texts that people edit, too."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core.marked_text import END, START, replace_part

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=START + END))


@given(before=TEXTS, after=TEXTS, first=TEXTS, second=TEXTS)
def test_text_around_the_part_is_kept(before: str, after: str, first: str, second: str) -> None:
    text = before + START + first + END + after
    assert replace_part(text, second) == before + START + second + END + after


@given(text=TEXTS, first=TEXTS, second=TEXTS)
def test_text_without_a_part_gets_one_at_its_end(text: str, first: str, second: str) -> None:
    once = replace_part(text, first)
    assert once.startswith(text.rstrip())
    assert once.endswith(START + first + END)
    assert replace_part(once, second) == replace_part(text, second)


def test_part_whose_marker_was_deleted_is_text_of_people() -> None:
    for damaged in (f"{START}ours", f"ours{END}", f"{END}ours{START}"):
        text = replace_part(f"{damaged} and theirs", "new")
        assert text == f"{damaged} and theirs\n\n{START}new{END}"
        assert replace_part(text, "newer") == f"{damaged} and theirs\n\n{START}newer{END}"
