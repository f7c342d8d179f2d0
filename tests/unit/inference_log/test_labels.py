"""Rules for labels: what counts, what is accepted, and in which order."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.inference_log.database import insert_ignoring
from eyevsai.inference_log.label_rules import StoredLabel, resolve
from eyevsai.inference_log.label_store import MAX_AHEAD_S, LabelResults
from eyevsai.inference_log.labels import LabelReader
from eyevsai.inference_log.records import KINDS, Label, kind_of
from eyevsai.inference_log.schema import labels as labels_table
from eyevsai.inference_log.schema import suggestions as suggestions_table
from tests.unit.inference_log.records import (
    IDENTITIES,
    MODEL,
    count_rows,
    make_answer,
    make_log,
    suggest,
)


def stored(*rows: tuple[str, str, float]) -> list[StoredLabel]:
    """Labels as (source, label, time), in the order of their arrival."""
    return [StoredLabel(seq, *row) for seq, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("import", "one", 1)], "one"),
        ([("rule:r", "one", 9), ("person:a", "two", 1)], "two"),
        ([("import:x", "one", 9), ("rule:r", "two", 1)], "two"),
        ([("person:a", "one", 2), ("person:a", "two", 1)], "one"),  # a late delivery
        ([("person:a", "one", 1), ("person:a", "two", 1)], "two"),  # at once: the later arrival
        ([("rule:r", "one", 1), ("rule:s", "two", 2)], "two"),
        ([("person:a", "one", 1), ("person:b", "one", 2)], "one"),
        ([("person:a", "one", 1), ("person:b", "two", 2)], None),
        ([("person:a", "one", 1), ("person:b", "two", 2), ("person:b", "one", 3)], "one"),
        ([("person", "one", 1), ("person:a", "two", 2), ("rule:r", "zero", 3)], None),
    ],
)
def test_label_that_counts(rows: list[tuple[str, str, float]], expected: str | None) -> None:
    resolution = resolve(stored(*rows))
    assert resolution.label == expected
    assert resolution.is_disputed == (expected is None)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["person:a", "person:b", "rule:r", "import"]),
            st.sampled_from(["one", "two"]),
            st.integers(0, 5).map(float),
        ),
        min_size=1,
    )
)
def test_only_the_highest_kind_counts(rows: list[tuple[str, str, float]]) -> None:
    highest = min((kind_of(source) for source, _, _ in rows), key=KINDS.index)
    of_kind = [row for row in rows if kind_of(row[0]) == highest]
    result = resolve(stored(*rows))
    assert result.label == resolve(stored(*of_kind)).label
    assert result.label in {None, *(label for _, label, _ in of_kind)}


def test_repeated_labels_change_nothing(tmp_path: Path) -> None:
    store, (answer,) = make_log(tmp_path, 1)
    label = Label(answer.id, "one", "person:a", at=5.0)
    first = store.add_labels([label] * 60)
    again = [store.add_labels([label, Label(answer.id, "one", "person:a")]) for _ in range(20)]
    assert first.total("accepted") == 1
    assert first.total("repeated") == 59
    assert all(each.counts == {(MODEL, "1", "repeated"): 2} for each in again)
    assert count_rows(store, "labels") == count_rows(store, "accepted") == 1


def test_same_source_and_time_with_another_label_is_conflicting(tmp_path: Path) -> None:
    store, (answer,) = make_log(tmp_path, 1)
    store.add_labels([Label(answer.id, "one", "person:a", at=5.0)])
    results = store.add_labels([Label(answer.id, "two", "person:a", at=5.0)])
    assert results.total("conflicting") == 1
    (resolved,) = LabelReader(store).resolved(MODEL)
    assert resolved.resolution.label == "one"


def test_first_accepted_label_is_never_changed(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 3)
    reader = LabelReader(store)
    store.add_labels([Label(each.id, "one", "import") for each in reversed(answers)])
    before = reader.accepted(MODEL)
    store.add_labels([Label(each.id, "two", "person:a") for each in answers])
    assert reader.accepted(MODEL) == before
    assert [each.id for each in before] == [each.id for each in reversed(answers)]
    assert {each.label for each in before} == {"one"}
    assert {each.resolution.label for each in reader.resolved(MODEL)} == {"two"}
    summary = reader.summary(MODEL)
    assert summary.corrected == 3
    assert summary.has_many_corrections
    assert reader.accepted(MODEL, after_seq=before[1].seq) == before[2:]


def test_label_before_its_answer_waits(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path)
    answer = make_answer()
    results = store.add_labels([Label(answer.id, "two", "person"), Label(answer.id, "one", "rule")])
    assert results.counts == {("", "", "waiting"): 2}
    assert LabelReader(store).accepted(MODEL) == []
    assert LabelReader(store).summary(MODEL).waiting == 1
    accepted = store.add_answers([answer])
    assert accepted.counts == {(MODEL, "1", "accepted"): 2}
    (first,) = LabelReader(store).accepted(MODEL)
    assert (first.id, first.label, first.source) == (answer.id, "two", "person")
    assert LabelReader(store).summary(MODEL).waiting == 0


def test_label_of_an_unknown_answer_is_reported_after_a_day(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 1)
    old, new = IDENTITIES.new_id(), IDENTITIES.new_id()
    store.add_labels(
        [
            Label(old, "one", "person", received_at=time.time() - 86_401),
            Label(new, "one", "person", received_at=time.time() - 86_000),
        ]
    )
    summary = LabelReader(store).summary(MODEL)
    assert (summary.waiting, summary.unknown, summary.unknown_ids) == (1, 1, (old,))


def test_time_in_the_future_is_that_of_the_arrival(tmp_path: Path) -> None:
    store, (answer,) = make_log(tmp_path, 1)
    now = time.time()
    store.add_labels([Label(answer.id, "one", "person:a", at=now + 2 * MAX_AHEAD_S)])
    with store.reading() as connection:
        row = connection.execute(labels_table.select()).one()
    assert row.at == row.received_at
    store.add_labels([Label(answer.id, "two", "person:a", at=row.at + 1)])
    (resolved,) = LabelReader(store).resolved(MODEL)
    assert resolved.resolution.label == "two"


def test_excluded_source_counts_no_longer_and_is_not_accepted(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 4)
    reader = LabelReader(store)
    store.add_labels([Label(answers[0].id, "two", "rule:flood")])
    assert store.exclude_source("rule:flood")
    assert not store.exclude_source("rule:flood")
    store.add_labels([Label(each.id, "two", "rule:flood") for each in answers])
    store.add_labels([Label(answers[1].id, "one", "import")])
    accepted = [(each.id, each.source) for each in reader.accepted(MODEL)]
    # what was accepted before stays: the test that used it is not run again
    assert accepted == [(answers[0].id, "rule:flood"), (answers[1].id, "import")]
    assert [each.id for each in reader.resolved(MODEL)] == [answers[1].id]
    summary = reader.summary(MODEL)
    assert summary.sources["rule:flood"].is_excluded
    assert store.include_source("rule:flood")
    assert {each.resolution.label for each in reader.resolved(MODEL)} == {"two"}


def test_sources_have_share_disagreement_and_error_rate(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 10)
    store.add_labels([Label(each.id, str(each.label), "person:a") for each in answers])
    store.add_labels([Label(each.id, "two", "rule:always") for each in answers[:6]])
    summary = LabelReader(store).summary(MODEL)
    assert summary.labelled == 10
    person, rule = summary.sources["person:a"], summary.sources["rule:always"]
    assert (person.share, person.error_rate) == (1.0, 0.0)
    assert (rule.answers, rule.share) == (6, 0.6)
    assert rule.disagreement == rule.error_rate == pytest.approx(4 / 6)


def test_disputed_answers_are_counted_and_have_no_label(tmp_path: Path) -> None:
    store, (answer, _) = make_log(tmp_path, 2)
    store.add_labels([Label(answer.id, name, f"person:{name}") for name in ("one", "two")])
    summary = LabelReader(store).summary(MODEL)
    assert (summary.labelled, summary.disputed) == (1, 1)
    (resolved,) = LabelReader(store).resolved(MODEL)
    assert resolved.resolution.label is None


def test_failed_answer_has_no_truth(tmp_path: Path) -> None:
    store, (answer,) = make_log(
        tmp_path, 1, status="failed", label=None, probability=None, probabilities=None
    )
    store.add_labels([Label(answer.id, "one", "person")])
    assert list(LabelReader(store).resolved(MODEL)) == []
    (accepted,) = LabelReader(store).accepted(MODEL)
    assert accepted.status == "failed"


def test_later_label_of_one_batch_is_newer(tmp_path: Path) -> None:
    store, (answer,) = make_log(tmp_path, 1)
    results = store.add_labels([Label(answer.id, name, "person") for name in ("one", "two")])
    assert results.total("accepted") == 2
    (resolved,) = LabelReader(store).resolved(MODEL)
    assert resolved.resolution.label == "two"


def test_suggested_answers_count_with_the_label_after_the_suggestion(tmp_path: Path) -> None:
    """Labels that users sent before are mostly those of wrong answers."""
    store, answers = make_log(tmp_path, 4)
    reader = LabelReader(store)
    early = Label(answers[0].id, "two", "rule:users")
    store.add_labels([early])
    suggest(store, 3, random_share=1.0)
    with store.writing() as connection:  # all but one of the four
        rows = [{"id": each.id, "reason": "random", "at": time.time()} for each in answers]
        for row in rows:
            connection.execute(insert_ignoring(connection, suggestions_table), row)
    assert reader.accepted(MODEL, asked_for="random") == []
    old = Label(answers[0].id, "one", "person:a", at=5.0)  # given before, delivered late
    store.add_labels([old])
    assert reader.accepted(MODEL, asked_for="random") == []
    store.add_labels([Label(each.id, "one", "person:a") for each in answers[::-1]])
    store.add_labels([Label(each.id, "zero", "person:a") for each in answers])
    asked = reader.accepted(MODEL, asked_for="random")
    assert [(each.id, each.label) for each in asked] == [(each.id, "one") for each in answers[::-1]]
    assert {each.suggestion for each in asked} == {"random"}
    assert reader.accepted(MODEL, asked_for="any") == asked
    assert reader.accepted(MODEL, asked_for="uncertain") == []
    first = reader.accepted(MODEL)
    assert (first[0].id, first[0].label) == (answers[0].id, "two")
    assert len(first) == 4


def test_flood_of_contradictory_labels_of_one_answer_is_stored_in_linear_time(
    tmp_path: Path,
) -> None:
    store, (answer,) = make_log(tmp_path, 1)

    def flood(start: int) -> tuple[float, LabelResults]:
        """Store labels of one source that alternate, and return the CPU time."""
        records = [
            Label(answer.id, ("one", "two")[index % 2], "rule:flood", at=1_000.0 + index)
            for index in range(start, start + 10_000)
        ]
        before = time.process_time()
        results = store.add_labels(records)
        return time.process_time() - before, results

    seconds, results = zip(*(flood(start) for start in range(0, 60_000, 10_000)), strict=True)
    assert [each.total("accepted") for each in results] == [10_000] * 6
    assert min(seconds[3:]) < 3 * min(seconds[:2])
    again = flood(20_000)[1]
    assert (again.total("repeated"), again.total("accepted")) == (10_000, 0)
    newest = Label(answer.id, "two", "rule:flood", at=2e6)
    assert store.add_labels([newest]).total("repeated") == 1
    assert store.add_labels([Label(answer.id, "one", "rule:flood", at=3e6)]).total("accepted") == 1
    conflict = Label(answer.id, "two", "rule:flood", at=3e6)
    assert store.add_labels([conflict]).total("conflicting") == 1
