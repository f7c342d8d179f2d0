"""Labels from clients: what is accepted, what is refused, and that nothing breaks the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.inference_log.feedback import parse_label
from eyevsai.inference_log.labels import LabelReader
from eyevsai.inference_log.records import Label
from eyevsai.inference_log.writer import LogWriter
from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.feedback import MAX_LABELS, accept_feedback, make_feedback_route
from tests.unit.inference_log.records import CLASSES, IDENTITIES, MODEL, make_answer, make_log


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[LogWriter]:
    store, _ = make_log(tmp_path)
    writer = LogWriter(store, IDENTITIES, interval_s=0.02)
    yield writer
    writer.close(1.0)


def send(writer: LogWriter, value: Any) -> dict[str, Any]:
    return accept_feedback(json.dumps(value).encode(), writer, CLASSES)


def test_label_is_stored_and_can_be_repeated(writer: LogWriter) -> None:
    answer = make_answer()
    writer.put(answer)
    body = {"id": answer.id, "label": "one", "source": "person:anna", "at": 5}
    for _ in range(3):
        assert send(writer, body)["accepted"] == 1
    assert writer.flush()
    (accepted,) = LabelReader(writer.store).accepted(MODEL)
    assert (accepted.label, accepted.source, accepted.at) == ("one", "person:anna", 5.0)
    assert writer.state().label_results == {
        (MODEL, "1", "accepted"): 1,
        (MODEL, "1", "repeated"): 2,
    }


def test_refused_labels_hold_back_no_others(writer: LogWriter) -> None:
    good = {"id": IDENTITIES.new_id(), "label": "two"}
    bad = [
        {"id": "0" * 48, "label": "one"},
        {"id": good["id"], "label": "=cmd()"},
        {"id": good["id"], "label": "one", "source": "admin"},
        {"id": good["id"], "label": "one", "source": "person:a\nb"},
        {"id": good["id"], "label": "one", "note": "x"},
        {"id": good["id"], "label": "one", "at": -5},
        {"id": 5, "label": "one"},
        "one",
    ]
    content = send(writer, [*bad[:5], good, *bad[5:]])
    assert content["accepted"] == 1
    assert [each["index"] for each in content["refused_labels"]] == [0, 1, 2, 3, 4, 6, 7, 8]
    assert content["refused"] == 8
    for each in bad:
        with pytest.raises(RequestError) as error:
            send(writer, each)
        assert error.value.status == 400
    assert writer.state().label_results["", "", "refused"] == 16


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"5", b"null", b"[" * 100_000])
def test_malformed_body_is_rejected(writer: LogWriter, body: bytes) -> None:
    with pytest.raises(RequestError) as error:
        accept_feedback(body, writer, CLASSES)
    assert error.value.status == 400


def test_number_of_labels_is_limited(writer: LogWriter) -> None:
    label = {"id": IDENTITIES.new_id(), "label": "two"}
    with pytest.raises(RequestError, match="Send 1 to 10,000"):
        send(writer, [label] * (MAX_LABELS + 1))
    assert send(writer, [label] * MAX_LABELS)["accepted"] == MAX_LABELS


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["id", "label", "source", "at"]) | st.text(), inner
    ),
)  # fmt: skip


@given(json_values)
def test_any_value_is_a_label_or_has_a_reason(value: Any) -> None:
    result = parse_label(value)
    assert isinstance(result, Label | str)
    assert result != ""


def test_labels_are_refused_while_they_would_be_lost(tmp_path: Path) -> None:
    (tmp_path / "log.db").mkdir()
    from eyevsai.inference_log.store import LogStore

    writer = LogWriter(
        LogStore(f"sqlite:///{tmp_path / 'log.db'}"), IDENTITIES, interval_s=0.02, max_bytes=20_000
    )
    for index in range(30):
        writer.put(make_answer(index))
    while not writer.state().is_filling:
        pass
    with pytest.raises(RequestError) as error:
        send(writer, {"id": IDENTITIES.new_id(), "label": "two"})
    assert error.value.status == 503
    assert "retry-after" in error.value.headers()
    writer.close(0.0)


def test_route_answers_with_202(writer: LogWriter) -> None:
    app = FastAPI()
    handler = make_feedback_route(writer, lambda: CLASSES)
    app.add_api_route("/v1/feedback", handler, methods=["POST"], status_code=202)
    label = {"id": IDENTITIES.new_id(), "label": "two"}
    with TestClient(app) as client:
        response = client.post("/v1/feedback", json=[label] * 5_000)
    assert response.status_code == 202
    assert response.json()["accepted"] == 5_000
