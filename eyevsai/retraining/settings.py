"""Policy of retraining, as `retraining.toml` has it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from eyevsai.core.settings import Choice, Doc, Range, Settings

POLICY = "retraining.toml"
MANUAL, ROLLOUT = "no", "rollout"  # values of `promote`


# of the policy, and of `monitor live`
RiskLimit = Annotated[
    float | None,
    Range(1e-6, 1 - 1e-6),
    Doc("Largest acceptable error rate; by default that of the evaluation plus 0.05."),
]
AccuracyFloor = Annotated[
    float | None,
    Range(0.0, 1.0),
    Doc("Lowest acceptable estimated accuracy; by default the evaluated one minus 0.05."),
]


@dataclass(frozen=True)
class RetrainingPolicy(Settings):
    """Reasons, limits and steps of a retraining."""

    PANEL: ClassVar[str] = "Retraining"

    new_labels: Annotated[
        int | None,
        Range(1, 10**7),
        Doc("Accepted labels since the last training that start a retraining by themselves."),
    ] = 500
    max_age_days: Annotated[
        float | None,
        Range(0.0, 36500.0),
        Doc("Age of the version in Production that starts a retraining; none by default."),
    ] = None
    risk_limit: RiskLimit = None
    accuracy_floor: AccuracyFloor = None
    min_labels: Annotated[
        int, Range(1, 10**7), Doc("New accepted labels that a training requires.")
    ] = 50
    suggest: Annotated[
        int, Range(1, 10**5), Doc("Images of a labelling request, uncertain and random ones.")
    ] = 200
    request_days: Annotated[
        float, Range(0.0, 3650.0), Doc("Days after which a labelling request without labels ends.")
    ] = 14.0
    recent_fraction: Annotated[
        float,
        Range(0.05, 0.5),
        Doc("Share of the new labels that become the test split `recent`, never trained on."),
    ] = 0.2
    recent_tolerance: Annotated[
        float,
        Range(0.0, 1.0),
        Doc("Maximum loss of accuracy on `recent`, compared with the version in Production."),
    ] = 0.02
    trials: Annotated[
        int, Range(0, 100_000), Doc("Trials of a study before the training; 0 for none.")
    ] = 0
    timeout_hours: Annotated[
        float | None, Range(0.0, 8760.0), Doc("Hours after which a step is stopped as failed.")
    ] = None
    # more would not fit into the tag of the state
    runs_per_week: Annotated[int, Range(0, 20), Doc("Maximum number of trainings in 7 days.")] = 3
    hours_per_week: Annotated[
        float, Range(0.0, 168.0), Doc("Hours of training in 7 days after which none is started.")
    ] = 24.0
    cooldown_hours: Annotated[
        float, Range(0.0, 8760.0), Doc("Hours after a retraining in which none is started.")
    ] = 24.0
    wait_days: Annotated[
        float, Range(0.0, 3650.0), Doc("Days for which a candidate waits for a person's decision.")
    ] = 7.0
    promote: Annotated[
        str,
        Choice((MANUAL, ROLLOUT)),
        Doc("no: a candidate waits for a person. rollout: a gradual rollout of it is started."),
    ] = MANUAL
    rollout_policy: Annotated[
        str | None, Doc("Policy file of the rollout; its default file and values if not set.")
    ] = None
    promotion_policy: Annotated[
        str | None, Doc("Policy file of the promotion checks; promotion.toml by default.")
    ] = None


# settings of the policy that determine which model a training gives
_OF_RESULT = ("recent_fraction", "trials")


def policy_digest(policy: RetrainingPolicy, train: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what a policy determines of the trained model.

    Reasons, limits and promotion have no part in it: another limit does not make another model.

    Args:
        policy: the policy.
        train: settings of `train` that the policy sets, by name.
    """
    values = {name: getattr(policy, name) for name in _OF_RESULT} | {"train": dict(train)}
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def retraining_key(model: str, data: str, policy: str) -> str:
    """Return the key of a retraining: SHA-256 of model, data digest and policy digest.

    Args:
        model: name of the registered model.
        data: digest of the frozen data.
        policy: result of `policy_digest`.
    """
    return hashlib.sha256("\n".join((model, data, policy)).encode()).hexdigest()
