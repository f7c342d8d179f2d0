"""Alerts that the receiver of the webhook has not got yet: pure functions of an outbox.

The caller stores the outbox after each change, so that later calls send what an earlier one could
not. A message may arrive twice, if a process is killed between sending and storing: its id is the
same then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

KEEP_S = 3 * 86400.0  # a message that nobody received in this time is given up
PAUSES_S = (60.0, 600.0, 3600.0, 6 * 3600.0)  # after failed attempts; the last one repeats
MAX_CHARACTERS = 4600  # of all messages as JSON: they are stored in a tag, with the other values
MAX_TEXT = 400  # characters of each text of a message


@dataclass(frozen=True)
class Message:
    """Message to the webhook; `at` is the Unix time in seconds at which it was posted."""

    at: float
    content: Mapping[str, Any]

    @property
    def names(self) -> list[str]:
        """Names of its alerts."""
        return [str(each["name"]) for each in self.content["alerts"]]


@dataclass(frozen=True)
class Outbox:
    """Messages that wait, the oldest first, and the number of those that were given up.

    `active` has the names of the alerts of the last measurement: only others are a new message.
    """

    pending: tuple[Message, ...] = ()
    attempts: int = 0  # failed ones since a message was received
    retry_at: float = 0.0
    lost: int = 0
    active: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the outbox as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outbox:
        """Return the outbox of JSON values; that of {} is empty."""
        return cls(
            tuple(Message(each["at"], each["content"]) for each in values.get("pending", ())),
            int(values.get("attempts", 0)),
            float(values.get("retry_at", 0.0)),
            int(values.get("lost", 0)),
            tuple(values.get("active", ())),
        )

    def is_due(self, now: float) -> bool:
        """Return True if the first message is to be sent at a Unix time."""
        return bool(self.pending) and now >= self.retry_at


def post(outbox: Outbox, content: Mapping[str, Any], now: float) -> Outbox:
    """Return the outbox with another message, which is due at once.

    It replaces the newest one if that has the same alerts. The oldest messages are given up if all
    are too long for a tag.

    Args:
        outbox: current outbox.
        content: JSON values with `alerts`, each with a `name` and a `text`.
        now: Unix time in seconds.
    """
    alerts = [each | {"text": each["text"][:MAX_TEXT]} for each in content["alerts"]]
    message = Message(now, {**content, "alerts": alerts})
    pending = list(outbox.pending)
    if pending and pending[-1].names == message.names:
        pending.pop()
    pending.append(message)
    lost = outbox.lost
    while len(pending) > 1 and _length(pending) > MAX_CHARACTERS:
        pending.pop(0)
        lost += 1
    return replace(outbox, pending=tuple(pending), retry_at=0.0, lost=lost)


def _length(messages: list[Message]) -> int:
    values = [asdict(each) for each in messages]
    return len(json.dumps(values, separators=(",", ":"), ensure_ascii=False))


def note_received(outbox: Outbox) -> Outbox:
    """Return the outbox without its first message."""
    return replace(outbox, pending=outbox.pending[1:], attempts=0, retry_at=0.0)


def note_failed(outbox: Outbox, now: float) -> Outbox:
    """Return the outbox after a failed attempt: it waits, and messages of three days are given up.

    Args:
        outbox: current outbox.
        now: Unix time in seconds.
    """
    kept = tuple(each for each in outbox.pending if each.at > now - KEEP_S)
    pause_s = PAUSES_S[min(outbox.attempts, len(PAUSES_S) - 1)]
    return replace(
        outbox,
        pending=kept,
        attempts=outbox.attempts + 1,
        retry_at=now + pause_s,
        lost=outbox.lost + len(outbox.pending) - len(kept),
    )
