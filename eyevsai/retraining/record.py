"""Record of the retraining of a model, and the events that change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, TypeAlias

from eyevsai.retraining.limits import Training
from eyevsai.retraining.reasons import Reason


class State(StrEnum):
    """State of the retraining of a model."""

    IDLE = "idle"
    TRIGGERED = "triggered"  # there is a reason
    NEEDS_LABELS = "needs_labels"  # a labelling request is open
    FROZEN = "frozen"  # the data are fixed
    TUNING = "tuning"
    TRAINING = "training"
    EVALUATING = "evaluating"
    GATED = "gated"  # evaluated, before the promotion checks
    CANDIDATE = "candidate"  # passed the checks
    ROLLOUT = "rollout"
    WAITING = "waiting"  # for a person's decision
    COOLING = "cooling"
    REFUSED = "refused"
    FAILED = "failed"
    STOPPED = "stopped"


class Action(StrEnum):
    """Work of a watcher in a state; its result is an event."""

    REQUEST_LABELS = "request labels"
    FREEZE = "freeze data"
    TUNE = "tune"
    TRAIN = "train"
    EVALUATE = "evaluate"
    CHECK = "check"
    START_ROLLOUT = "start rollout"
    FOLLOW_ROLLOUT = "follow rollout"
    FOLLOW_PERSON = "follow person"


@dataclass(frozen=True)
class Observed:
    """Result of monitoring. `production` is the version in Production."""

    reasons: tuple[Reason, ...]
    new_labels: int
    production: int


@dataclass(frozen=True)
class Requested:
    """A labelling request was opened, for `count` images."""

    count: int


@dataclass(frozen=True)
class Frozen:
    """Data were frozen: their digest, the key of the training, and the newest label in them."""

    data: str
    key: str
    labels_until: int  # its position in the order of arrival


@dataclass(frozen=True)
class Tuned:
    """A study ended: the id of its run, and the seconds that it took."""

    study: str
    seconds: float


@dataclass(frozen=True)
class Trained:
    """A version was trained in `seconds`."""

    version: int
    seconds: float


@dataclass(frozen=True)
class Evaluated:
    """Both versions were evaluated on both test splits, in `seconds`."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Passed:
    """The new version passed the checks, and has the alias `candidate`."""


@dataclass(frozen=True)
class Refused:
    """The new version failed checks."""

    texts: tuple[str, ...]


@dataclass(frozen=True)
class RolloutStarted:
    """A rollout of the new version was started."""


@dataclass(frozen=True)
class Ended:
    """A rollout or a person decided about the candidate."""

    outcome: str  # such as `promoted`


@dataclass(frozen=True)
class Failed:
    """An action raised an error, after `seconds`."""

    error: str
    seconds: float = 0.0


Event: TypeAlias = (
    Observed
    | Requested
    | Frozen
    | Tuned
    | Trained
    | Evaluated
    | Passed
    | Refused
    | RolloutStarted
    | Ended
    | Failed
)


@dataclass(frozen=True)
class Retraining:
    """Stored state of the retraining of a model; times are Unix times in seconds.

    The second part concerns the current cycle, and is cleared when it ends; `outcome` is kept until
    the next one.
    """

    state: State = State.IDLE
    since: float = 0.0
    sequence: int = 0  # number of changes
    trainings: tuple[Training, ...] = ()  # of the last week
    keys: tuple[str, ...] = ()  # of earlier trainings, the newest last
    labels_until: int = 0  # position of the newest label that a training has used
    outcome: str = ""

    reasons: tuple[Reason, ...] = ()
    production: int | None = None
    new_labels: int = 0
    requested: int = 0
    frozen_until: int = 0  # position of the newest label in the frozen data
    data: str = ""
    key: str = ""
    study: str = ""
    version: int | None = None
    failures: int = 0
    error: str = ""
    failed_in: State | None = None
    retry_at: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Retraining:
        """Return the record of JSON values; unknown fields, of a later eyevsai, are ignored."""
        names = {each.name for each in fields(cls)}
        stored = {name: value for name, value in values.items() if name in names}
        failed_in = stored.get("failed_in")
        return cls(
            **stored
            | {
                "state": State(stored.get("state", State.IDLE)),
                "trainings": tuple(Training(**each) for each in stored.get("trainings", ())),
                "keys": tuple(stored.get("keys", ())),
                "reasons": tuple(Reason(each) for each in stored.get("reasons", ())),
                "failed_in": None if failed_in is None else State(failed_in),
            }
        )


def describe(record: Retraining) -> str:
    """Return reasons, labels, version and error of a record in a few words; may be empty."""
    parts = [
        f"reasons: {', '.join(record.reasons)}" if record.reasons else "",
        f"{record.new_labels} new labels" if record.reasons else "",
        f"version {record.version}" if record.version is not None else "",
        f"failure {record.failures}: {record.error}" if record.failures else "",
        record.outcome,
    ]
    return "; ".join(part for part in parts if part)
