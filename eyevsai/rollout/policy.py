"""Policy of a rollout: the plan, and the conditions of each step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand
from eyevsai.core.settings import Doc, Range, Settings
from eyevsai.core.toml import read_toml
from eyevsai.registry.rollout_tag import FULL_SHARE
from eyevsai.registry.settings import parse_policy

POLICY_FILE = "rollout.toml"
PLAN = "shadow,1,5,25,50"
SHADOW_STEP = "shadow"
DAY_S = 86_400.0


@dataclass(frozen=True)
class RolloutPolicy(Settings):
    """Plan and limits of a rollout."""

    PANEL: ClassVar[str] = "Rollout policy"

    plan: Annotated[
        str,
        Doc(
            "Steps, comma-separated: `shadow`, then rising shares of the candidate in percent, "
            "below 100."
        ),
    ] = PLAN
    alpha: Annotated[
        float,
        Range(1e-6, 0.2),
        Doc("Probability of rolling back a version that is as good as the one in Production."),
    ] = 0.01
    min_time_s: Annotated[float, Range(0, 1e8), Doc("Minimum duration of a step, in seconds.")] = (
        600.0
    )
    max_time_s: Annotated[
        float, Range(1, 1e8), Doc("Duration after which a step without enough evidence is held.")
    ] = DAY_S
    min_requests: Annotated[
        int, Range(1, 10**9), Doc("Minimum number of answers of the candidate in a step.")
    ] = 100
    failure_limit: Annotated[
        float,
        Range(1e-4, 0.5),
        Doc("Share of failed answers that the candidate must be proved to stay below."),
    ] = 0.01
    tolerance: Annotated[
        float,
        Range(1e-3, 0.5),
        Doc(
            "Loss of accuracy that labels must exclude, and the additional share of different "
            "answers in shadow that is accepted."
        ),
    ] = 0.03
    min_labels: Annotated[
        int,
        Range(1, 10**9),
        Doc("Number of labelled answers from which on labels must prove the tolerance."),
    ] = 100
    slow_ms: Annotated[
        float | None,
        Range(0.01, 1e7),
        Doc(
            "Model time above which an answer is slow; by default, 3 times the 95th percentile of "
            "Production."
        ),
    ] = None
    late_ms: Annotated[
        float,
        Range(1, 1e7),
        Doc("Time after which Production answers in place of the candidate."),
    ] = 2_000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_plan(self.plan)
        if self.min_time_s >= self.max_time_s:
            raise UserError(
                f"min_time_s {self.min_time_s:g} is not below max_time_s {self.max_time_s:g}. "
                "Change one of them."
            )

    @property
    def shares(self) -> tuple[int, ...]:
        """Share of each step, of 10,000; 0 for shadow."""
        return parse_plan(self.plan)


def parse_plan(text: str) -> tuple[int, ...]:
    """Return the share of each step of a plan, of 10,000; 0 for shadow.

    Raises:
        UserError: a step is neither `shadow` nor a percentage, the shares do not rise, or shadow is
            not the first step.
    """
    shares = tuple(_parse_step(word.strip()) for word in text.split(","))
    is_rising = all(low < high for low, high in zip(shares, shares[1:], strict=False))
    if not is_rising:
        raise UserError(
            f"The plan {text!r} does not rise. Use shadow first, if at all, and then larger shares "
            f"from step to step, such as {PLAN}."
        )
    return shares


def _parse_step(word: str) -> int:
    if word == SHADOW_STEP:
        return 0
    try:
        share = round(float(word.removesuffix("%")) * FULL_SHARE / 100)
    except (ValueError, OverflowError):
        share = 0
    if not 0 < share < FULL_SHARE:
        raise UserError(
            f"{word!r} is no step of a plan. Use {SHADOW_STEP}, or a percentage from 0.01 to "
            f"99.99, as in {PLAN}."
        )
    return share


def format_share(share: int) -> str:
    """Return a share of 10,000 as text: `shadow`, `1 %` or `0.5 %`."""
    return SHADOW_STEP if share == 0 else f"{share * 100 / FULL_SHARE:g} %"


def read_rollout_policy(path: str | None, plan: str | None = None) -> RolloutPolicy:
    """Return the policy of a rollout.

    Args:
        path: TOML file; None for `rollout.toml` in the current folder, or else the defaults.
        plan: plan that replaces the one of the file; None to keep it.

    Raises:
        UserError: the file cannot be read, or has an unknown setting or an invalid value; or the
            plan is invalid.
    """
    file = expand(path or POLICY_FILE).absolute()
    is_missing = path is None and not file.is_file()
    policy = RolloutPolicy() if is_missing else _read_file(file)
    if plan is None:
        return policy
    try:
        return replace(policy, plan=plan)
    except UserError as error:
        raise UserError(f"--plan {plan}: {error}") from None


def _read_file(file: Path) -> RolloutPolicy:
    values = read_toml(file, "The policy", 'plan = "shadow,5,50"')
    if isinstance(values.get("plan"), list):
        values["plan"] = ",".join(map(str, values["plan"]))
    parsed = parse_policy(RolloutPolicy, values, file)
    try:
        return RolloutPolicy(**parsed)
    except UserError as error:
        raise UserError(f"{file}: {str(error).removeprefix('--')}") from None
