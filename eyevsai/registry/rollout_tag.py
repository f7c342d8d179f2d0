"""Tag of a registered model with the share of a candidate, which servers follow."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from eyevsai.core.errors import UserError

TAG = "eyevsai.rollout"
FULL_SHARE = 10_000  # shares are whole numbers of this
PREPARED, SHADOW, SPLIT, OFF = MODES = ("prepared", "shadow", "split", "off")


@dataclass(frozen=True)
class RolloutTag:
    """Instruction for all servers of a model.

    A server ignores a tag whose `seq` is below the highest that it has obeyed: a controller that
    has lost its lease may write a tag late, and MLflow's tags have no compare-and-set.
    """

    run: str  # MLflow run of the rollout
    seq: int  # number of the decision, which rises with each one of the model
    mode: str  # one of MODES; the candidate is loaded unless it is `off`
    share: int  # of keys that the candidate answers, of 10,000
    salt: str  # of the rollout, in hexadecimal
    version: int  # candidate
    production: int  # version that the candidate is compared with
    step: str  # label that is logged with each answer of this step
    late_ms: float  # after which production answers in place of the candidate

    def to_json(self) -> str:
        """Return the value of the tag."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def fraction(self) -> float:
        """Share of the candidate, from 0 to 1."""
        return self.share / FULL_SHARE


def parse_tag(text: str) -> RolloutTag:
    """Return the tag with the value `text`.

    Raises:
        UserError: it was changed by hand, so that it is not a valid instruction.
    """
    try:
        values = json.loads(text)
        tag = RolloutTag(**{name: kind(values[name]) for name, kind in _KINDS.items()})
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"The tag {TAG} is not valid: {text[:200]!r}. End the rollout, which writes it again: "
            "eyevsai rollout abort NAME"
        ) from error
    if tag.mode not in MODES or not 0 <= tag.share < FULL_SHARE:
        raise UserError(f"The tag {TAG} has the mode {tag.mode!r} and the share {tag.share}.")
    return tag


_KINDS = {
    "run": str,
    "seq": int,
    "mode": str,
    "share": int,
    "salt": str,
    "version": int,
    "production": int,
    "step": str,
    "late_ms": float,
}
