from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from eyevsai.core.errors import UserError
from eyevsai.core.json_schema import load_validator
from eyevsai.core.names import ModelName
from eyevsai.workflows.registry.legacy_records import (
    STATUSES,
    RejectedRecord,
    parse_record,
    read_legacy_records,
)
from tests.json_schemas import list_undescribed
from tests.legacy_registry import make_record, write_registry


def test_a_record_says_what_its_run_is() -> None:
    record = parse_record(make_record(1))
    run = record.run
    assert record.name == ModelName("pets", "deep_v2", "resnet")
    assert run.ended_ms == int(datetime(2025, 7, 5, 12, 20, 14, 886351).timestamp() * 1000)
    assert run.ended_ms - run.started_ms == 3_600_500
    assert run.status == "FINISHED"
    assert run.metrics == {
        "best_valid_accuracy": 0.49,
        "imported/final_train_accuracy": 0.6,
        "imported/total_epochs": 30,
    }
    assert run.params == {
        "learning_rate": "0.1",
        "dropout_rates": "[0.4, 0.3, 0.2]",
        "use_cbam": "True",
        "max_depth": "",
    }
    assert run.tags == {
        "eyevsai.job": "import",
        "dataset": "pets",
        "model": "deep_v2",
        "variation": "resnet",
        "imported": "model_000000000001",
        "original_version": "v20250705_00000001",
        "files": "config.json, model.pth",
        "session_id": "session_1",
        "export_status": "pending",
        "production_ready": "False",
        "cuda_version": "12.8",
        "tags": "night, long",
    }
    assert json.loads(run.record) == make_record(1)
    assert record.version_tags == {
        "imported": "model_000000000001",
        "original_version": "v20250705_00000001",
        "files": "config.json, model.pth",
        "accuracy": "0.4900",
    }


@pytest.mark.parametrize(
    ("written", "model"),
    [
        ("deep-v1", "deep_v1"),
        ("deep_v1", "deep_v1"),
        ("Shallow", "shallow"),
        ("transfer", "transfer"),
        ("deep-v3", "deep-v3"),
        ("Mystery", "Mystery"),
    ],
)
def test_types_become_families_where_there_is_one(written: str, model: str) -> None:
    assert parse_record(make_record(1, model_type=written)).name.model == model


def test_what_the_original_did_not_know_is_left_open() -> None:
    unknown = dict.fromkeys(
        (
            "best_validation_accuracy",
            "training_time_seconds",
            "final_hyperparameters",
            "metrics",
            "model_files",
            "tags",
        )
    )
    record = parse_record(make_record(1, **unknown))
    assert record.run.started_ms == record.run.ended_ms
    assert record.run.metrics == {}
    assert record.run.params == {"learning_rate": "0.3"}
    assert "accuracy" not in record.version_tags


def test_a_failed_training_has_no_version() -> None:
    record = parse_record(make_record(1, training_status="failed"))
    assert record.run.status == "FAILED"
    assert not record.has_version


HUGE = 10**400
BAD = {
    "accuracy above 1": (
        {"best_validation_accuracy": 49.0},
        "best_validation_accuracy 49.0, not a number from 0 to 1",
    ),
    "accuracy NaN": (
        {"best_validation_accuracy": float("nan")},
        "best_validation_accuracy NaN, not a number",
    ),
    "accuracy true": (
        {"best_validation_accuracy": True},
        "best_validation_accuracy true, not a number",
    ),
    "time negative": (
        {"training_time_seconds": -1},
        "training_time_seconds -1, not a number from 0 to 10,000,000",
    ),
    "time huge": ({"training_time_seconds": HUGE}, "training_time_seconds Infinity, not a number"),
    "metric NaN": (
        {"metrics": {"test_loss": float("nan")}},
        "has metrics.test_loss NaN, not a finite number",
    ),
    "metric huge": (
        {"metrics": {"test_loss": HUGE}},
        "has metrics.test_loss Infinity, not a finite number",
    ),
    "metric's name": (
        {"metrics": {"a/../b": 1.0}},
        'has metrics["a/../b"] 1.0, not a number with a name that MLflow accepts',
    ),
    "metrics a list": ({"metrics": [1.0]}, r"has metrics [1.0], not an object"),
    "setting's name": (
        {"final_hyperparameters": {"lr?": 1}},
        'has final_hyperparameters "lr?", not the name of a setting that MLflow accepts',
    ),
    "no time": ({"registered_at": "yesterday"}, 'registered_at "yesterday", not a time such as'),
    "before its time": (
        {"registered_at": "1969-07-20"},
        'registered_at "1969-07-20", not a time from 2000 until now',
    ),
    "first year": ({"registered_at": "0001-01-01"}, 'registered_at "0001-01-01", not a time'),
    "future": (
        {"registered_at": (datetime.now() + timedelta(days=3)).isoformat()},
        "not a time from 2000 until now",
    ),
    "dataset null": ({"dataset": None}, "has dataset null, not a text of 1 to 60 characters"),
    "dataset blank": ({"dataset": "  "}, 'has dataset "  ", not a text of 1 to 60 characters'),
    "dataset long": ({"dataset": "x" * 61}, "not a text of 1 to 60 characters"),
    "running": (
        {"training_status": "running"},
        'training_status "running", not completed or failed',
    ),
    "files": (
        {"model_files": {"config": ["config.json"]}},
        'has model_files.config[0] "config.json", not an object with the path of a file',
    ),
    "half a character": ({"notes": "\ud800"}, "contains an unpaired surrogate"),
    "character 0": ({"notes": "a\0b"}, "contains the character U+0000"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_and_the_others_are_taken(name: str, tmp_path: Path) -> None:
    changed, reason = BAD[name]
    path = write_registry(
        tmp_path / "registry.json", make_record(1), make_record(2, **changed), make_record(3)
    )
    records, (left_out,) = read_legacy_records(path)
    assert [record.model_id for record in records] == ["model_000000000001", "model_000000000003"]
    assert left_out.record == "model_000000000002"
    assert reason in left_out.reason


def test_missing_fields_are_named_together(tmp_path: Path) -> None:
    (tmp_path / "registry.json").write_text(
        '{"models": {"bare": {"model_id": "bare", "dataset": "pets"}, "none": 7}}'
    )
    records, left_out = read_legacy_records(tmp_path / "registry.json")
    assert records == []
    assert left_out == [
        RejectedRecord(
            "bare",
            "lacks model_type, variation, version, registered_at, training_status, "
            "best_validation_accuracy, training_time_seconds",
        ),
        RejectedRecord("none", "is 7, not an object"),
    ]


def test_the_first_error_in_the_order_of_the_schema_is_reported() -> None:
    files = {"config": [{"path": "config.json"}, {"size_mb": 1}]}
    changed = {"model_files": files, "metrics": {"loss": float("inf")}}
    with pytest.raises(UserError, match=r"^has metrics.loss Infinity, not a finite number$"):
        parse_record(make_record(1, **changed))
    with pytest.raises(UserError, match=r"^lacks model_files.config\[1\].path$"):
        parse_record(make_record(1, model_files=files))
    with pytest.raises(UserError, match=rf'^has dataset "{"x" * 79}, not a text'):
        parse_record(make_record(1, dataset="x" * 1000))


def test_settings_that_were_replaced_are_not_checked() -> None:
    record = parse_record(make_record(1, hyperparameters=7, final_hyperparameters={"lr": 1}))
    assert record.run.params == {"lr": "1"}
    with pytest.raises(UserError, match="has hyperparameters 7, not an object"):
        parse_record(make_record(1, hyperparameters=7, final_hyperparameters=None))


def test_the_schema_is_valid() -> None:
    schema = load_validator("eyevsai.workflows.registry", "legacy_registry.json").schema
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["training_status"]["enum"] == list(STATUSES)
    assert list_undescribed(schema) == []


@pytest.mark.parametrize("key", ["model_000000000001", "other"])
def test_of_two_records_with_one_id_none_is_guessed(key: str, tmp_path: Path) -> None:
    pairs = [
        ("model_000000000001", make_record(1)),
        (key, make_record(1, dataset="foods")),
        ("3", make_record(3)),
    ]
    written = ", ".join(f"{json.dumps(key)}: {json.dumps(content)}" for key, content in pairs)
    (tmp_path / "registry.json").write_text(f'{{"models": {{{written}}}}}')
    records, left_out = read_legacy_records(tmp_path / "registry.json")
    assert [record.model_id for record in records] == ["model_000000000003"]
    reason = "is the model_id of 2 records: keep only the right one in the file"
    assert left_out == [RejectedRecord("model_000000000001", reason)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "has no 'models'"),
        (b'{"models": []}', "has no 'models'"),
        (b'{"transfer_learning_classifier": []}', "has no 'models'"),
    ],
)
def test_a_file_that_is_no_registry_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "registry.json").write_bytes(content)
    with pytest.raises(UserError, match=r"registry\.json is n.*training_registry\.json") as caught:
        read_legacy_records(tmp_path / "registry.json")
    assert reason in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file .*missing\.json"):
        read_legacy_records(tmp_path / "missing.json")
    with pytest.raises(UserError, match="Is a directory"):
        read_legacy_records(tmp_path)


def test_an_empty_registry_holds_nothing(tmp_path: Path) -> None:
    assert read_legacy_records(write_registry(tmp_path / "registry.json")) == ([], [])


def test_a_registry_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = write_registry(tmp_path / "registry.json", make_record(1))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_legacy_records(path)[0]) == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(field=st.sampled_from(sorted(make_record(1))), value=VALUES)
def test_whatever_stands_in_a_field_the_other_records_are_read(
    tmp_path: Path, field: str, value: Any
) -> None:
    models = {"a": make_record(1), "b": make_record(2, **{field: value})}
    (tmp_path / "registry.json").write_text(json.dumps({"models": models}))
    records, left_out = read_legacy_records(tmp_path / "registry.json")
    assert len(records) + len(left_out) == 2
    assert records[0].model_id == "model_000000000001"
    for record in records:
        record.run.record.encode()
        assert all(
            isinstance(text, str)
            for text in (*record.run.params.values(), *record.run.tags.values())
        )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
def test_any_json_is_a_registry_or_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "registry.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="is not a registry"):
        read_legacy_records(tmp_path / "registry.json")
