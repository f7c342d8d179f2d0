"""Ids of answers and hashes of keys."""

from __future__ import annotations

import re
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.inference_log.ids import (
    ID_LENGTH,
    MAX_AGE_S,
    Identities,
    first_id,
    new_request_id,
    time_of,
)


def test_id_is_a_uuid_of_version_7_with_a_tag() -> None:
    answer_id = Identities(b"secret").new_id()
    assert len(answer_id) == ID_LENGTH
    value = uuid.UUID(answer_id[:32])
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert time_of(answer_id) == pytest.approx(time.time(), abs=5)


def test_ids_rise_even_if_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    identities = Identities(b"secret")
    before = [identities.new_id() for _ in range(5)]
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now - 3_600_000_000_000)
    ids = before + [identities.new_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))


def test_only_own_ids_are_valid() -> None:
    identities = Identities(b"secret")
    answer_id = identities.new_id()
    assert identities.is_valid(answer_id)
    assert not Identities(b"other").is_valid(answer_id)
    flipped = answer_id[:-1] + ("0" if answer_id[-1] != "0" else "1")
    for wrong in (flipped, answer_id.upper(), f" {answer_id[1:]}", answer_id[:-2], "", None, 5):
        assert not identities.is_valid(wrong)


@given(st.text())
def test_any_text_is_checked_and_hashed(text: str) -> None:
    identities = Identities(b"secret")
    assert not identities.is_valid(text)
    assert len(identities.hash_key("model", text)) == 32


def test_key_hash_depends_on_secret_and_model() -> None:
    hashes = {
        Identities(secret).hash_key(model, "customer")
        for secret in (b"a", b"b")
        for model in ("x", "y")
    }
    assert len(hashes) == 4
    assert Identities(b"a").hash_key("x", "customer") in hashes


def test_first_id_is_a_bound_of_its_time() -> None:
    identities = Identities(b"secret")
    before = time.time() - 0.002
    answer_id = identities.new_id()
    assert first_id(before) <= answer_id < first_id(time.time() + 0.002)


def test_request_has_one_id_whoever_answers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    request, identities = new_request_id(), Identities(b"secret")
    content = ("digits", "anna", b"image")
    answer_id = identities.id_of_request(request, *content)
    assert answer_id == Identities(b"secret").id_of_request(request, *content)
    assert answer_id is not None
    assert re.fullmatch(r"[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{31}", answer_id)
    assert answer_id[:16] == request[:16]  # the time
    assert identities.is_valid(answer_id)
    assert not Identities(b"other secret").is_valid(answer_id)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + MAX_AGE_S + 1)
    assert identities.id_of_request(request, *content) is None  # ids are an index of time
    monkeypatch.setattr(time, "time", lambda: now - 10)
    assert identities.id_of_request(request, *content) is None


def test_client_cannot_choose_an_id_or_give_one_id_to_different_requests() -> None:
    identities = Identities(b"secret")
    victim = identities.new_id()
    ids = [
        identities.id_of_request(victim[:32], *content)
        for content in (
            ("digits", None, b"image"),
            ("digits", None, b"another image"),
            ("digits", "anna", b"image"),
            ("pets", None, b"image"),
        )
    ]
    assert len({victim, *ids}) == 5
    assert all(each is not None and each[:32] != victim[:32] for each in ids)


@pytest.mark.parametrize(
    "text", ["", "x", "0" * 32, "A" * 32, "01a22b0c3792771ba57017e612a3c9530", "\u0661" * 32]
)
def test_other_text_is_no_request(text: str) -> None:
    assert Identities(b"secret").id_of_request(text, "digits", None, b"image") is None
