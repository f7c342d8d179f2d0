from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core.errors import UserError
from eyevsai.registry.rollout_tag import FULL_SHARE, RolloutTag, parse_tag
from eyevsai.rollout.routing import CANDIDATE, PRODUCTION, arm_of, bucket_of

SECRET = b"0123456789abcdef"
TAG = RolloutTag("run", 3, "split", 500, "ab", 8, 7, "run:1", 2_000.0)


@given(st.text(), st.text(max_size=8), st.integers(0, FULL_SHARE), st.integers(0, FULL_SHARE))
def test_a_larger_share_only_adds_keys(key: str, salt: str, one: int, other: int) -> None:
    low, high = sorted((one, other))
    if arm_of(SECRET, salt, key, low) == CANDIDATE:
        assert arm_of(SECRET, salt, key, high) == CANDIDATE
    assert arm_of(SECRET, salt, key, 0) == PRODUCTION
    assert arm_of(SECRET, salt, key, FULL_SHARE) == CANDIDATE


@pytest.mark.parametrize("share", [100, 500, 2_500])
def test_share_of_keys_is_the_share(share: int) -> None:
    keys = [f"user-{number}" for number in range(40_000)]
    candidates = sum(arm_of(SECRET, "salt", key, share) == CANDIDATE for key in keys)
    expected = len(keys) * share / FULL_SHARE
    assert abs(candidates - expected) < 4 * expected**0.5


def test_rollouts_and_secrets_split_independently() -> None:
    keys = [f"user-{number}" for number in range(20_000)]
    first = {key for key in keys if bucket_of(SECRET, "a", key) < FULL_SHARE // 2}
    for secret, salt in ((SECRET, "b"), (b"another secret!!", "a")):
        both = sum(bucket_of(secret, salt, key) < FULL_SHARE // 2 for key in first)
        assert abs(both / len(first) - 0.5) < 0.02


def test_salt_and_key_are_separated() -> None:
    assert bucket_of(SECRET, "ab", "c") != bucket_of(SECRET, "a", "bc")


def test_tag_is_read_as_it_was_written() -> None:
    assert parse_tag(TAG.to_json()) == TAG
    assert TAG.fraction == 0.05


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        TAG.to_json().replace("500", '"much"'),
        TAG.to_json().replace("500", "-1"),
    ],
)
def test_tag_that_was_changed_by_hand_is_rejected(text: str) -> None:
    with pytest.raises(UserError, match=r"eyevsai\.rollout"):
        parse_tag(text)


def test_mode_is_one_of_those_that_servers_know() -> None:
    with pytest.raises(UserError, match="mode"):
        parse_tag(TAG.to_json().replace("split", "all"))
