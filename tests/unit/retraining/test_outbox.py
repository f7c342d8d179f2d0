"""Outbox of alerts that the receiver of the webhook has not got yet."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from eyevsai.registry.retraining_runs import MAX_RECORD
from eyevsai.retraining.outbox import (
    KEEP_S,
    MAX_CHARACTERS,
    PAUSES_S,
    Outbox,
    note_failed,
    note_received,
    post,
)
from eyevsai.workflows.monitor.alerts import ALERTS

NOW = 1_800_000_000.0


def content(*names: str, text: str = "a text") -> dict[str, Any]:
    return {"model": "m", "alerts": [{"name": name, "text": text} for name in names]}


def test_pauses_grow_and_a_new_alert_is_tried_at_once() -> None:
    box, now = post(Outbox(), content("a"), NOW), NOW
    for number in range(len(PAUSES_S) + 2):
        assert box.is_due(now)
        box = note_failed(box, now)
        pause_s = PAUSES_S[min(number, len(PAUSES_S) - 1)]
        assert not box.is_due(now + pause_s - 1)
        now += pause_s
    box = note_failed(box, now)
    assert not box.is_due(now)
    box = post(box, content("b"), now)
    assert box.is_due(now)
    box = note_received(note_received(box))
    assert box == Outbox()


def test_alerts_that_nobody_receives_are_given_up_and_counted() -> None:
    box = post(post(Outbox(), content("a"), NOW), content("b"), NOW + KEEP_S / 2)
    box = note_failed(box, NOW + KEEP_S + 1)
    assert [each.names for each in box.pending] == [["b"]]
    assert box.lost == 1
    assert note_received(box).lost == 1


def test_repeated_alerts_are_one_message() -> None:
    """Alerts that come and go, or fail again, need one message: the newest."""
    box = post(post(Outbox(), content("a", "b"), NOW), content("a", "b"), NOW + 60)
    assert [each.at for each in box.pending] == [NOW + 60]
    assert box.lost == 0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3000)), max_size=40))
def test_the_outbox_fits_a_tag(posted: list[tuple[str, int]]) -> None:
    box, replaced, newest = Outbox(), 0, ""
    for name, length in posted:
        replaced += name == newest
        box, newest = post(box, content(name, text="x" * length), NOW), name
        stored = json.dumps(box.to_json(), separators=(",", ":"))
        assert len(stored) <= min(MAX_RECORD, MAX_CHARACTERS + 100)
        assert Outbox.from_json(json.loads(stored)) == box
        full = replace(box, attempts=999, retry_at=NOW + 0.123456, active=ALERTS)
        stored = json.dumps(full.to_json(), separators=(",", ":"))
        assert len(stored) <= MAX_RECORD
        assert Outbox.from_json(json.loads(stored)) == full
    assert len(box.pending) + box.lost + replaced == len(posted)
