from __future__ import annotations

from pathlib import Path

import pytest

from eyevsai.core.errors import UserError
from eyevsai.rollout.policy import (
    RolloutPolicy,
    format_share,
    parse_plan,
    read_rollout_policy,
)


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("shadow,1,5,25,50", (0, 100, 500, 2500, 5000)),
        ("0.5, 10%", (50, 1000)),
        ("shadow", (0,)),
        ("99.99", (9999,)),
    ],
)
def test_plan_is_parsed(text: str, shares: tuple[int, ...]) -> None:
    assert parse_plan(text) == shares


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no step"),
        ("0", "no step"),
        ("100", "no step"),
        ("half", "no step"),
        ("nan", "no step"),
        ("inf", "no step"),
        ("5,5", "does not rise"),
        ("25,5", "does not rise"),
        ("5,shadow", "does not rise"),
        ("shadow,shadow", "does not rise"),
    ],
)
def test_plan_that_makes_no_sense_is_rejected(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_plan(text)


def test_shares_are_shown_in_percent() -> None:
    assert [format_share(share) for share in (0, 50, 100, 2500)] == [
        "shadow",
        "0.5 %",
        "1 %",
        "25 %",
    ]


def test_policy_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "rollout.toml"
    file.write_text('plan = ["shadow", 2, 20]\nalpha = 0.05\nmin_time_s = 60\n', encoding="utf-8")
    policy = read_rollout_policy(str(file))
    assert (policy.shares, policy.alpha, policy.min_time_s) == ((0, 200, 2000), 0.05, 60)
    assert read_rollout_policy(str(file), "10").shares == (1000,)


def test_default_file_is_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_rollout_policy(None) == RolloutPolicy()
    Path("rollout.toml").write_text("min_requests = 7\n", encoding="utf-8")
    assert read_rollout_policy(None).min_requests == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min_request = 3", "Did you mean 'min_requests'"),
        ("alpha = 2", "alpha 2"),
        ("alpha = 'much'", "alpha must be a number"),
        ("min_time_s = 100\nmax_time_s = 10", "not below max_time_s"),
        ("plan = '50,5'", "does not rise"),
        ("[limits]\nslow_ms = 3", "'limits' is not a policy setting"),
        ("alpha = ", "not valid TOML"),
    ],
)
def test_mistake_in_a_policy_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "rollout.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message) as caught:
        read_rollout_policy(str(file))
    assert str(file) in str(caught.value)


def test_missing_policy_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_rollout_policy(str(tmp_path / "none.toml"))


@pytest.mark.parametrize("plan", ["shadow,200", "50,25"])
def test_invalid_plan_of_the_command_line_is_not_blamed_on_the_file(
    plan: str, tmp_path: Path
) -> None:
    file = tmp_path / "rollout.toml"
    file.write_text("min_requests = 7\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"^--plan {plan}: ") as raised:
        read_rollout_policy(str(file), plan)
    assert file.name not in str(raised.value)
