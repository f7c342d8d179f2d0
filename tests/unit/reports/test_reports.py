"""What reports say of models, whatever these are."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose_listed
from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import FAMILIES, get_family, select_models
from eyevsai.reports.difficulty import LEVELS, is_scored, split_levels
from eyevsai.reports.game_backend import build_game_report, describe_dataset, read_schema
from eyevsai.reports.inline_images import draw_png
from eyevsai.reports.model_versions import Export, ModelVersion, finite, select_versions
from eyevsai.reports.readiness import ReadinessReport
from eyevsai.reports.summary import list_versions, summarize, write_csv
from eyevsai.reports.summary_page import render_summary_page
from eyevsai.reports.summary_plots import plot_summary
from eyevsai.store.run_dir import HEARTBEAT
from eyevsai.tracking.run_lifecycle import start_run
from eyevsai.tracking.run_metrics import RunMetrics, read_columns, read_run_metrics, read_runs
from eyevsai.workflows.job_context import log_input
from tests.conftest import write_images

NOW = "2026-03-03T12:00:00+00:00"
PASSED = {
    "onnx": Export(
        "passed", "runs:/r/exports/onnx", "/exports/onnx", False, {"max_difference": 1e-7}
    )
}
CLASSES = ("cat", "dog")
CANDIDATE = ModelVersion(
    key="pets-deep_v2-resnet",
    dataset="pets",
    family="deep_v2",
    variation="resnet",
    number=1,
    run_id="r",
    experiment_id="0",
    fingerprint="f",
    parts=("pets",),
    registered_ms=0,
    stage="",
    has_model=True,
    duration_s=12.5,
    metrics={"test_accuracy": 0.8, "best_valid_accuracy": 0.9},
    exports=PASSED,
    failed_checks=(),
    size_bytes=10,
    parameters=5,
    image_size=96,
    threshold=None,
)
READY = ReadinessReport(CANDIDATE, "it is the only version", CLASSES, CLASSES, "/folder", False)
ACCURACIES = st.lists(st.floats(0.01, 1.0) | st.sampled_from([0.25, 0.5]), max_size=15)


def model_of(number: int, metrics: dict[str, float], **changes: Any) -> ReadinessReport:
    kinds = [(family, name) for family in FAMILIES for name in get_family(family).variations]
    family, variation = kinds[number % len(kinds)]
    version = replace(
        CANDIDATE,
        key=f"pets-{family}-{variation}",
        family=family,
        variation=variation,
        metrics=metrics,
    )
    return replace(READY, version=replace(version, **changes))


@given(ACCURACIES)
def test_every_accuracy_has_one_level_and_a_better_one_none_below(accuracies: list[float]) -> None:
    levels = [list(LEVELS).index(level) for level in split_levels(accuracies)]
    assert len(levels) == len(accuracies)
    pairs = sorted(zip(accuracies, levels, strict=True))
    assert [level for _, level in pairs] == sorted(levels)
    assert all(a[1] == b[1] for a, b in zip(pairs, pairs[1:], strict=False) if a[0] == b[0])
    if accuracies:
        assert min(levels) == 0
    if len(accuracies) >= 3:
        lower, upper = np.percentile(accuracies, [33, 67])
        assert Counter(levels)[0] == sum(value <= lower for value in accuracies)
        assert Counter(levels)[2] == sum(value > upper for value in accuracies)


@pytest.mark.parametrize(
    ("accuracies", "levels"),
    [
        ([], []),
        ([0.5], ["easy"]),
        ([0.9, 0.5], ["hard", "easy"]),
        ([0.5, 0.5], ["easy", "easy"]),
        ([0.1, 0.5, 0.9], ["easy", "medium", "hard"]),
        ([0.5] * 4, ["easy"] * 4),
    ],
)
def test_few_models_have_levels_too(accuracies: list[float], levels: list[str]) -> None:
    assert split_levels(accuracies) == levels


@given(st.lists(st.floats(0, 1) | st.just(math.nan) | st.none(), min_size=1, max_size=15))
def test_a_report_is_what_its_schema_says(accuracies: list[float | None]) -> None:
    metrics = [{} if value is None else {"test_accuracy": value} for value in accuracies]
    models = [model_of(number, finite(each)) for number, each in enumerate(metrics)]
    report = json.loads(json.dumps(build_game_report(models, NOW), allow_nan=False))
    (dataset,) = report["datasets"].values()
    scored = [value for value in accuracies if is_scored(value)]
    assert dataset["total_models_available"] == len(scored)
    assert (dataset["best_model"] or {"accuracy": None})["accuracy"] == max(scored, default=None)
    entries = [
        entry for level in dataset["difficulty_levels"].values() for entry in level["models"]
    ]
    assert len({entry["model_key"] for entry in entries}) == len(entries)
    for level in dataset["difficulty_levels"].values():
        found = [entry["accuracy"] for entry in level["models"]]
        assert level["accuracy_range"] == ([min(found), max(found)] if found else None)
    assert len(report["model_descriptions"]) == 15


def test_the_best_three_of_a_level_are_shown() -> None:
    models = [model_of(number, {"test_accuracy": 0.5 + number / 100}) for number in range(15)]
    hard = describe_dataset("pets", models)["difficulty_levels"]["hard"]
    assert [entry["accuracy"] for entry in hard["models"]] == [0.64, 0.63, 0.62]
    assert hard["accuracy_range"] == [0.62, 0.64]


def test_the_schema_refuses_what_a_backend_cannot_use() -> None:
    jsonschema.Draft202012Validator.check_schema(read_schema())
    good = build_game_report([READY], NOW)
    entry = good["datasets"]["pets"]["difficulty_levels"]["easy"]["models"][0]
    for name, bad in (
        ("model_path", "/home/me/model.pth"),
        ("model_key", ""),
        ("accuracy", 0.0),
        ("version", 1),
        ("export_formats", []),
        ("training_time", -1),
        ("model_format", "pickle"),
    ):
        before, entry[name] = entry[name], bad
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(good, read_schema())
        entry[name] = before
    jsonschema.validate(good, read_schema())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"metrics": {"best_valid_accuracy": 0.9}},
            "eyevsai evaluate pets-deep_v2-resnet/1",
        ),
        ({"metrics": {"test_accuracy": 0.0}}, "its test accuracy is zero"),
        ({"experiment_id": ""}, "its run was deleted"),
        ({"exports": {}}, "no export that passed the parity check"),
        (
            {"exports": PASSED | {"openvino": Export("refused", "", None, False)}},
            "as openvino failed the parity check",
        ),
        (
            {"exports": {"onnx": replace(PASSED["onnx"], is_missing=True, folder=None)}},
            "as onnx are missing",
        ),
        (
            {"failed_checks": ("it failed the promotion checks",)},
            "it failed the promotion checks",
        ),
    ],
)
def test_each_fact_that_keeps_a_model_from_deployment_is_said(
    changes: dict[str, Any], said: str
) -> None:
    assert READY.is_ready
    model = replace(READY, version=replace(CANDIDATE, **changes))
    assert not model.is_ready
    assert said in "; ".join(model.reasons)
    assert said in " ".join(model.recommendations)


def test_a_model_of_other_classes_or_without_files_is_not_ready() -> None:
    assert replace(READY, classes=("dog", "cat")).is_ready
    assert "the newest model of pets (cow)" in replace(READY, classes=(*CLASSES, "cow")).reasons[0]
    assert "did not log its class names" in replace(READY, classes=()).reasons[0]
    assert "files are missing" in replace(READY, folder=None, is_missing=True).reasons[0]
    staged = replace(READY, version=replace(CANDIDATE, stage="production", threshold=0.5))
    assert "it passed the promotion checks" in staged.reasons
    assert "Treat predictions with a probability below 0.5000 as unsure" in " ".join(
        staged.recommendations
    )
    assert "eyevsai promote pets-deep_v2-resnet/1" in " ".join(READY.recommendations)


def chosen(*versions: ModelVersion) -> tuple[int, str]:
    ((version, why),) = select_versions(versions).values()
    return version.number, why


def test_production_then_test_then_valid_accuracy_choose_a_version() -> None:
    tested, better = (
        replace(CANDIDATE, number=1),
        replace(CANDIDATE, number=2, metrics={"best_valid_accuracy": 1.0}),
    )
    assert chosen(tested, better) == (1, "it is the best of 2 versions by test accuracy")
    assert chosen(
        replace(better, metrics={"best_valid_accuracy": 0.5}), replace(better, number=3)
    ) == (3, "it is the best of 2 versions by valid accuracy")
    assert chosen(tested, replace(better, stage="production"))[0] == 2
    assert chosen(tested, replace(tested, number=4))[0] == 4  # of equal ones the newest
    assert chosen(replace(tested, has_model=False), better)[0] == 2
    assert select_versions([replace(tested, has_model=False)]) == {}
    assert (
        "none of which has an accuracy"
        in chosen(replace(tested, metrics={}), replace(tested, number=2, metrics={}))[1]
    )


def test_tables_hold_every_version_and_no_nan() -> None:
    other = replace(
        CANDIDATE,
        number=2,
        metrics=finite({"best_valid_accuracy": math.nan, "lr": 0.1}),
        duration_s=None,
    )
    rows = list_versions([other, CANDIDATE], [READY])
    first, second = csv.DictReader(write_csv(rows).splitlines())
    assert (first["version"], first["reported"], first["deployment_ready"], first["accuracy"]) == (
        "1",
        "true",
        "true",
        "0.8",
    )
    assert (second["reported"], second["deployment_ready"], second["accuracy"]) == ("false", "", "")
    assert first["training_time"] == "12.5"
    worse = model_of(0, {"test_accuracy": 0.6})
    summary = summarize([CANDIDATE, other, worse.version], [READY, worse], NOW)
    assert summary["summary_statistics"] == pytest.approx(
        {"mean": 0.7, "std": 0.1, "min": 0.6, "max": 0.8}
    )
    assert summary["best_overall_model"] == {
        "model": "deep_v2/resnet",
        "dataset": "pets",
        "accuracy": 0.8,
        "accuracy_of": "test",
        "version": "1",
        "model_key": "pets-deep_v2-resnet",
    }
    assert (
        summary["total_models_trained"],
        summary["total_models"],
        summary["deployment_ready"],
    ) == (3, 2, 2)
    assert summarize([other], [], NOW)["best_overall_model"] is None


@pytest.mark.parametrize("accuracies", [[], [0.5], [0.1, 0.2, 0.3] * 8])
def test_pictures_of_any_number_of_models(accuracies: list[float], tmp_path: Path) -> None:
    versions = [
        replace(
            CANDIDATE,
            dataset=f"$d{number}$",
            variation=str(number),
            metrics={"test_accuracy": value},
        )
        for number, value in enumerate(accuracies)
    ]
    for name, figure in plot_summary(versions).items():
        figure.savefig(tmp_path / f"{name}.png")
    assert len(list(tmp_path.iterdir())) == 3


def test_names_on_the_page_are_text() -> None:
    nasty = '"><script>alert(1)</script>'
    model = replace(
        READY, version=replace(CANDIDATE, dataset=nasty, run_id='"x', experiment_id='" onclick="')
    )
    summary = summarize([model.version], [model], NOW)
    pictures = {name: draw_png(figure) for name, figure in plot_summary([model.version]).items()}
    page = render_summary_page([model], summary, pictures, "http://server:5000")
    assert page.count("<script>") == 1
    assert 'onclick="' not in page
    assert "http://server:5000/#/experiments/%22%20onclick%3D%22/runs/%22x" in page


def test_lists_of_models_and_datasets_are_checked() -> None:
    assert select_models("deep_v1, transfer/vgg16,deep_v1") == [
        ("deep_v1", "standard"),
        ("deep_v1", "residual"),
        ("transfer", "vgg16"),
    ]
    with pytest.raises(UserError, match=r"Did you mean 'transfer/vgg16'\?"):
        select_models("transfer/vgg19")
    with pytest.raises(UserError, match="contains no dataset"):
        choose_listed("dataset", " , ", ["pets"])


def result_of(uri: str, run_id: str) -> RunMetrics:
    """What came of a run, which a server's answer and a database's columns say alike."""
    client = MlflowClient(tracking_uri=uri)
    found = read_run_metrics(uri, [run_id, "gone"])
    assert found == read_columns(client, [run_id]) == read_runs(client, [run_id])
    return found[run_id]


def test_a_resumed_runs_pause_is_no_training(workplace: Path) -> None:
    uri, state = os.environ["MLFLOW_TRACKING_URI"], workplace / "state"
    with pytest.raises(KeyboardInterrupt), start_run(uri, "long", {}, state) as run:
        raise KeyboardInterrupt
    client = MlflowClient()
    assert result_of(uri, run.run_id).duration_s == pytest.approx(0.0, abs=5.0)
    begun = int(time.time() * 1000) - 100_000  # it began 100 s ago, and 90 s ago it was interrupted
    _set_begin(workplace, run.run_id, begun)
    os.utime(run.folder.path / HEARTBEAT, (time.time() - 90,) * 2)
    with start_run(uri, "long", {}, state, resumed_run_id=run.run_id):
        pass
    found = result_of(uri, run.run_id)
    assert float(client.get_run(run.run_id).data.tags["eyevsai.paused_s"]) == pytest.approx(
        90, abs=3
    )
    assert found.duration_s == pytest.approx(10, abs=5)


def _set_begin(folder: Path, run_id: str, started_ms: int) -> None:
    import sqlite3

    with sqlite3.connect(folder / "mlflow.db") as database:
        database.execute("update runs set start_time = ? where run_uuid = ?", [started_ms, run_id])
    database.close()


def test_a_run_says_of_which_datasets_its_own_is_composed(workplace: Path, cache_dir: Path) -> None:
    for name in ("beans", "pets"):
        write_images(workplace / "root" / name, {"a": 8, "b": 8})
    union = DataSettings(
        dataset="combined_all", data_dir=str(workplace / "root"), cache_dir=str(cache_dir)
    )
    uri = os.environ["MLFLOW_TRACKING_URI"]
    with start_run(uri, "union", {}, workplace / "state") as run:
        log_input(run, load_dataset(union))
        run.log_metrics({"best_valid_accuracy": 0.5, "best_valid_loss": 2.0}, step=1)
        run.log_metrics({"best_valid_accuracy": 0.75}, step=2)
    assert result_of(uri, run.run_id).parts == ("beans", "pets")
    assert (
        result_of(uri, run.run_id).metrics.items()
        >= {"best_valid_accuracy": 0.75, "best_valid_loss": 2.0}.items()
    )
    MlflowClient().delete_run(run.run_id)
    assert read_run_metrics(uri, [run.run_id]) == {}


def test_results_are_said_in_one_line() -> None:
    from eyevsai.reports.result_lines import format_evaluation, format_training

    assert (
        format_training(0.5, 3, 8, 1234)
        == "Valid accuracy 0.5000 in epoch 3 of 8; 1,234 parameters."
    )
    assert format_training(0.5, 1, 1, None) == "Valid accuracy 0.5000."
    metrics = {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.93}
    assert format_evaluation(metrics, 1200, 0.95) == (
        "Test accuracy 0.9000 (95 % interval 0.8500 to 0.9300) on 1,200 images; valid accuracy "
        "0.9500."
    )
    assert format_evaluation(metrics, 12, None, "Accuracy on others:").startswith(
        "Accuracy on others: 0.9000 (95 %"
    )
