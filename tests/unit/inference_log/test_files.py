"""Files of labels and suggestions."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyevsai.core.errors import UserError
from eyevsai.inference_log.files import (
    Row,
    escape_cell,
    read_labels,
    unescape_cell,
    write_table,
)
from eyevsai.inference_log.images import ImageFolder, ImageSampler
from eyevsai.inference_log.records import KeptImage, Label
from eyevsai.inference_log.schema import images as images_table
from eyevsai.inference_log.suggestion_files import make_config, write_suggestions, write_tasks
from tests.unit.inference_log.records import CLASSES, count_rows, make_log, suggest


def read(tmp_path: Path, text: str, name: str = "labels.csv") -> list[Row]:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return list(read_labels(path, "import:file"))


def labels(rows: list[Row]) -> list[tuple[str, str, str, float | None]]:
    assert all(isinstance(row.label, Label) for row in rows)
    return [
        (row.label.id, row.label.label, row.label.source, row.label.at)
        for row in rows
        if isinstance(row.label, Label)
    ]


def test_table_is_read(tmp_path: Path) -> None:
    text = "\ufeffID;label;source;at\na;one;person:x;2026-11-30T12:00:00Z\n\nb;'=two;;17.5\nc;;;\n"
    assert labels(read(tmp_path, text)) == [
        ("a", "one", "person:x", 1796040000.0),
        ("b", "=two", "import:file", 17.5),
    ]


@pytest.mark.parametrize("time", ["yesterday", "nan", "inf", "-5", "1e400"])
def test_row_with_a_wrong_time_is_refused(tmp_path: Path, time: str) -> None:
    (row,) = read(tmp_path, f"id,label,at\na,one,{time}\n")
    assert row.where.endswith("labels.csv, row 2")
    assert "is no time" in str(row.label)


@pytest.mark.parametrize("text", ["", "id\na\n", "name,label\na,b\n"])
def test_table_without_columns_is_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="no columns id and label"):
        read(tmp_path, text)


def task(result: Any, **values: Any) -> dict[str, Any]:
    return {"result": result, "completed_by": 3, "created_at": "2026-11-30T12:00:00Z"} | values


def choice(*names: str) -> list[dict[str, Any]]:
    return [{"type": "choices", "value": {"choices": list(names)}}]


def test_label_studio_export_is_read(tmp_path: Path) -> None:
    tasks = [
        {
            "data": {"eyevsai_id": "a", "image": "data:"},
            "annotations": [
                task(choice("one")),
                task(choice("two"), completed_by={"id": 4, "email": "anna@example.org"}),
                task(choice("zero"), was_cancelled=True),
                task([]),
            ],
        },
        {"data": {"eyevsai_id": "b"}, "annotations": [task(choice("one", "two"))]},
        {"eyevsai_id": "c", "label": "one", "annotator": 5},  # JSON-MIN
    ]
    rows = read(tmp_path, json.dumps(tasks), "export.json")
    assert labels([rows[0], rows[1], rows[3]]) == [
        ("a", "one", "person:label-studio-3", 1796040000.0),
        ("a", "two", "person:label-studio-4", 1796040000.0),
        ("c", "one", "person:label-studio-5", None),
    ]
    assert "2 choices" in str(rows[2].label)


@pytest.mark.parametrize("text", ["{", "{}", "[1]", '[{"data": {}}]', '[{"data": 5}]', "[" * 9999])
def test_other_json_is_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError):
        read(tmp_path, text, "export.json")


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "eyevsai_id", "annotations", "result", "value", "choices", "label"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_any_json_is_read_or_rejected(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    folder = tmp_path_factory.getbasetemp()
    try:
        rows = read(folder, json.dumps(value), "any.json")
    except UserError:
        return
    assert all(isinstance(row.label, Label | str) for row in rows)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8))
def test_cells_are_no_formulas_and_are_restored(text: str) -> None:
    cell = str(escape_cell(text))
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    if not text.startswith("'"):
        assert unescape_cell(cell) == text


def test_table_is_safe_in_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_table(path, ["id", "n"], [["=cmd|' /C calc'!A0", 0.5], ["@x", -1]])
    with open(path, encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream))[1:] == [["'=cmd|' /C calc'!A0", "0.5"], ["'@x", "-1"]]


def test_suggestions_are_uncertain_and_random_and_come_once(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 300)
    with store.writing() as connection:
        for index, each in enumerate(answers):
            connection.exec_driver_sql(
                "UPDATE answers SET probability = ? WHERE id = ?", (0.3 + index / 1000, each.id)
            )
    store.add_labels([Label(answers[0].id, "one", "person")])
    first = suggest(store, 40, random_share=0.5)
    assert len({each.id for each in first}) == 40
    uncertain = [each for each in first if each.reason == "uncertain"]
    assert len(uncertain) == 20
    assert answers[0].id not in {each.id for each in uncertain}
    assert max(each.probability for each in uncertain) < 0.3 + 45 / 1000
    assert max(each.probability for each in first) > 0.4  # 20 of 300 at random
    second = suggest(store, 1000, random_share=0.1)
    assert len(second) in (259, 260)  # an answer with a label can only be drawn at random
    assert not {each.id for each in first} & {each.id for each in second}
    assert suggest(store, 10, random_share=0.0) == []
    assert count_rows(store, "suggestions") == 40 + len(second)


def test_suggested_table_is_added_with_labels(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 5)
    suggestions = suggest(store, 5, random_share=1.0)
    path = tmp_path / "to-label.csv"
    write_suggestions(path, suggestions)
    assert list(read_labels(path, "person")) == []
    with open(path, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["id"] for row in rows} == {each.id for each in answers}
    assert rows[0].keys() >= {"id", "label", "predicted", "probability"}
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(row | {"label": "two"} for row in rows)
    added = [row.label for row in read_labels(path, "person")]
    results = store.add_labels([each for each in added if isinstance(each, Label)])
    assert results.total("accepted") == 5


def test_tasks_contain_the_images(tmp_path: Path) -> None:
    store, answers = make_log(tmp_path, 4)
    folder = ImageFolder(tmp_path / "images")
    data = b"\x89PNG and so on"
    for each, reason in zip(answers[:2], ("random", "uncertain"), strict=True):
        folder.write(KeptImage(each.sha256 or b"", each.id, reason, data))
    with store.writing() as connection:
        rows = [
            {"sha256": each.sha256, "answer_id": each.id, "reason": reason, "size": len(data)}
            for each, reason in zip(answers[:2], ("random", "uncertain"), strict=True)
        ]
        connection.execute(images_table.insert(), rows)
    suggestions = suggest(store, 4, random_share=0.5, folder=folder, with_image=True)
    assert {each.id: each.reason for each in suggestions} == {
        answers[0].id: "random",
        answers[1].id: "uncertain",
    }
    path = tmp_path / "tasks.json"
    write_tasks(path, suggestions, CLASSES)
    tasks = json.loads(path.read_text(encoding="utf-8"))
    assert all(each["data"]["image"].startswith("data:image/png;base64,") for each in tasks)
    assert {each["data"]["eyevsai_id"] for each in tasks} == {each.id for each in answers[:2]}
    config = ElementTree.fromstring(path.with_suffix(".xml").read_text(encoding="utf-8"))
    assert [each.get("value") for each in config.iter("Choice")] == list(CLASSES)


def test_class_names_are_escaped_in_the_configuration() -> None:
    names = ['"/><script>', "a & b"]
    config = ElementTree.fromstring(make_config(names))
    assert [each.get("value") for each in config.iter("Choice")] == names


def test_sampler_needs_no_digest(tmp_path: Path) -> None:
    sampler = ImageSampler(ImageFolder(tmp_path), 1.0, 1)
    _, (answer,) = make_log(tmp_path, 1, sha256=None)
    kept = sampler.select(answer, b"data")
    assert kept is not None
    sampler.folder.write(kept)
    assert sampler.folder.path(kept.sha256).read_bytes() == b"data"
