"""HTML pages of reports: self-contained, in words with units, on one template."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eyevsai.data.catalog import find_source
from eyevsai.data.curation import curate
from eyevsai.data.settings import DataSettings
from eyevsai.evaluation.calibration import Bin
from eyevsai.evaluation.metric_names import TEST
from eyevsai.evaluation.results import EvaluationResult
from eyevsai.reports.comparison_page import ComparedImage, render_comparison_page
from eyevsai.reports.data_page import MAX_FILES_SHOWN, render_data_page
from eyevsai.reports.evaluation_page import render_evaluation_page
from eyevsai.reports.evaluation_plots import (
    describe_left_out,
    plot_corruptions,
    plot_reliability,
    select_bins,
)
from eyevsai.reports.inline_images import draw_png
from eyevsai.reports.page import PageOrigin
from eyevsai.reports.readiness import ReadinessReport
from eyevsai.reports.summary import summarize
from eyevsai.reports.summary_page import render_summary_page
from eyevsai.reports.summary_plots import plot_summary
from eyevsai.reports.units import (
    METRICS,
    describe_metric,
    format_bytes,
    format_duration,
    format_metric,
)
from tests.conftest import write_images
from tests.html_pages import check_self_contained
from tests.invoke import ROOT
from tests.unit.reports.test_reports import CANDIDATE, NOW, PASSED, READY

RUN_ID = "35fd84afa4e44ad18a8cf03a76f10c90"
ORIGIN = PageOrigin(datetime(2026, 3, 3, 12, tzinfo=UTC), RUN_ID, f"http://server/#/runs/{RUN_ID}")


def evaluate(num_classes: int = 7, **changes: Any) -> EvaluationResult:
    """Return the result of an evaluation of 200 images with random predictions."""
    random = np.random.default_rng(0)
    labels = random.integers(0, num_classes, 200)
    logits = random.standard_normal((200, num_classes))
    logits[np.arange(200), labels] += 2
    powers = np.exp(logits)
    probabilities = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    classes = tuple(f"class {number:04}" for number in range(num_classes))
    speed = {"images_per_s": 1834.2, "latency_ms": 3.21, "peak_memory_mib": 512.4}
    result = EvaluationResult(classes, labels, probabilities, probabilities, 0, speed)
    return replace(result, **changes)


def render_evaluation(result: EvaluationResult, **plots: Any) -> str:
    return render_evaluation_page(
        "models:/a/1", "digits", result, result.metrics(), plots, origin=ORIGIN
    )


def test_header_of_a_page_has_title_date_and_the_link_of_the_run() -> None:
    page = check_self_contained(render_evaluation(evaluate()))
    assert "Evaluation models:/a/1 2026-03-03 12:00 UTC" in page.text
    assert [link["href"] for link in page.links] == [ORIGIN.run_url]
    for url in (None, "javascript:alert(1)"):
        result = evaluate()
        origin = replace(ORIGIN, run_url=url)
        content = render_evaluation_page("a", "b", result, result.metrics(), {}, origin=origin)
        assert check_self_contained(content).links == []
        assert f"run <code>{RUN_ID}</code>" in content


def test_evaluation_page_has_metrics_in_words_with_units() -> None:
    result = evaluate()
    metrics = result.metrics()
    page = check_self_contained(render_evaluation(result))
    low, high = 100 * metrics["accuracy_low"], 100 * metrics["accuracy_high"]
    accuracy = f"{100 * metrics['accuracy']:.1f} %"
    assert (
        f"Accuracy {accuracy}, 95 % interval {low:.1f} to {high:.1f} %, on 200 images" in page.text
    )
    assert f"Calibration error (ECE) {100 * metrics['ece']:.1f} %" in page.text
    assert "Throughput 1,834 images/s" in page.text
    assert "Latency of one image 3.2 ms" in page.text
    for name in metrics:
        assert f"{describe_metric(name).label} {format_metric(name, metrics[name])}" in page.text
        assert f"{TEST}{name}" in page.text  # its name in MLflow


def test_corruptions_are_a_table_with_the_clean_accuracy_first() -> None:
    corrupted = {"blur": [0.9, 0.8, 0.7, 0.6], "jpeg": [0.9, 0.9, 0.85, 0.8]}
    result = evaluate(corrupted=corrupted)
    page = check_self_contained(
        render_evaluation(result, corruptions=plot_corruptions(result.corrupted))
    )
    assert (
        "Corruption Clean Severity 1 Severity 2 Severity 3 Mean of severities Drop of the mean"
        in page.text
    )
    assert "Gaussian blur 90.0 % 80.0 % 70.0 % 60.0 % 70.0 % 20.0 points" in page.text
    assert "JPEG compression 90.0 % 90.0 % 85.0 % 80.0 % 85.0 % 5.0 points" in page.text
    assert "Robustness" not in check_self_contained(render_evaluation(evaluate())).text


def test_reliability_bins_with_under_five_images_are_not_drawn_and_counted() -> None:
    bins = [Bin(4, 0.2, 0.5), Bin(5, 0.5, 0.6), Bin(90, 0.9, 0.95), Bin(1, 0.97, 0.0)]
    assert select_bins(bins) == bins[1:3]
    text = "Not drawn: 2 bins with under 5 images, 5 images of 100."
    assert describe_left_out(bins) == text
    assert describe_left_out(bins[1:3]) == ""
    figure = plot_reliability(bins, bins)
    upper, lower = figure.axes
    for line in upper.get_lines()[1:]:
        assert np.asarray(line.get_xdata()).tolist() == [0.5, 0.9]
    assert [label.get_text() for label in lower.texts] == ["5", "90"]
    assert figure.get_supxlabel() == text
    figure.savefig(io.BytesIO(), format="png")
    plot_reliability(bins[:1], bins[:1]).savefig(io.BytesIO(), format="png")  # nothing to draw

    result = evaluate()
    drawn = select_bins(result.bins(calibrated=True))
    page = check_self_contained(render_evaluation(result, reliability=figure))
    assert describe_left_out(result.bins(calibrated=True)) in page.text
    for each in drawn:
        row = f"{100 * each.confidence:.1f} % {100 * each.accuracy:.1f} % {each.count}"
        assert row in page.text


def test_page_of_a_thousand_classes_is_small() -> None:
    check_self_contained(render_evaluation(evaluate(num_classes=1000)))


def test_comparison_page_has_models_in_rows_and_the_best_value_bold() -> None:
    def model(number: int, accuracy: float, **metrics: float) -> dict[str, Any]:
        interval = {"low": accuracy - 0.02, "high": accuracy + 0.02}
        return {
            "run_id": f"run{number}",
            "title": f"models:/a/{number}",
            "metrics": {"accuracy": accuracy, **metrics},
            "interval": interval,
        }

    difference = {"only_first": 14, "only_second": 2, "p_value": 0.004}
    pair = {
        "first": "models:/a/1",
        "second": "models:/a/2",
        "difference": difference,
        "only_first": [f"{number}.png" for number in range(14)],
        "only_second": ["<b>.png"] * 2,
    }
    comparison = {
        "models": [model(1, 0.95, ece=0.03, latency_ms=2.0), model(2, 0.91, ece=0.01)],
        "images": 270,
        "settings": {"lr": [0.006, None]},
        "pairs": [pair],
    }
    image = ComparedImage(np.zeros((20, 30, 3), np.uint8), "<i>cat", "dog", "cow")
    content = render_comparison_page(
        comparison,
        [[[image] * 12, [image] * 2]],
        origin=PageOrigin(ORIGIN.date),
        run_urls={"run1": "http://server/#/run1"},
    )
    page = check_self_contained(content)
    assert "Comparison 2 models on the same 270 test images 2026-03-03 12:00 UTC" in page.text
    assert "models:/a/1 run run1 95.0 % 95 % interval 93.0 to 97.0 % 3.0 % 2.0 ms" in page.text
    assert re.findall(r'class="n best"[^>]*>([^<]+)<', content) == ["95.0 %", "1.0 %"]
    assert "models:/a/1 models:/a/2 14 2 0.004 significant" in page.text
    assert "12 of 14 images." in page.text
    assert [link["href"] for link in page.links] == ["http://server/#/run1"]
    assert "<i>cat" not in content
    assert content.count("data:image/jpeg") == 14
    without_images = render_comparison_page(comparison | {"settings": {}}, [[]])
    assert "data:image" not in without_images


def test_models_page_has_a_panel_for_each_dataset_and_reasons_in_a_few_words() -> None:
    def model(dataset: str, number: int, **changes: Any) -> ReadinessReport:
        version = replace(CANDIDATE, key=f"{dataset}-{number}", dataset=dataset, **changes)
        return replace(READY, version=version)

    models = [
        model("pets", 1),
        model("pets", 2, metrics={"best_valid_accuracy": 0.9}, exports={}, duration_s=None),
        model("birds", 1, exports=PASSED, stage="production", size_bytes=4_200_000),
    ]
    versions = [each.version for each in models]
    plots = {name: draw_png(figure) for name, figure in plot_summary(versions).items()}
    content = render_summary_page(models, summarize(versions, models, NOW), plots, "http://server")
    page = check_self_contained(content)
    assert re.findall(r'<section class="panel">\s*<h2>(\w+)</h2>', content) == ["birds", "pets"]
    assert "2 models, 1 ready for deployment." in page.text
    assert "1 model, 1 ready for deployment." in page.text
    assert models[1].short_blockers == ["not evaluated", "no export"]
    assert "<summary>not evaluated, no export</summary>" in content
    for reason in models[1].blockers:
        assert f"<li>{reason}</li>" in content
    assert "2026-03-03 12:00 UTC" in page.text
    assert "80.0 % test, in Production 12 s 4.2 MB onnx yes" in page.text


def test_data_page_states_how_many_files_it_does_not_show(tmp_path: Path, cache_dir: Path) -> None:
    folder = write_images(tmp_path / "pets", {"cat & co": 6, "dog": 3})
    for number in range(MAX_FILES_SHOWN + 2):
        (folder / "dog" / f"empty {number:03}.png").touch()
    dataset = curate(find_source(DataSettings(data=str(folder))), cache_dir)
    content = render_data_page(dataset, origin=PageOrigin(ORIGIN.date))
    page = check_self_contained(content)
    assert "Data check pets 2026-03-03 12:00 UTC" in page.text
    assert f"Bad files {MAX_FILES_SHOWN + 2}" in page.text
    assert f"empty {MAX_FILES_SHOWN - 1:03}.png" in page.text
    assert f"empty {MAX_FILES_SHOWN:03}.png" not in page.text.partition("Bad files They")[2]
    assert "and 2 more files: eyevsai data check --json lists them." in page.text
    assert "cat &amp; co" in content
    assert "Class Images Examples Share of the largest class cat & co 6" in page.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (12.4, "12 s"), (200, "3 min 20 s"), (3900, "1 h 5 min")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_values_have_units_and_unknown_metrics_keep_their_names() -> None:
    assert format_metric("accuracy", 0.93249) == "93.2 %"
    assert format_metric("threshold", 0.98765) == "0.9877"
    assert format_metric("loss", float("nan")) == "undefined"
    assert (describe_metric("other").label, format_metric("other", 12.3456)) == ("other", "12.35")
    assert describe_metric("noise_2").label == "Accuracy, Gaussian noise of severity 2"
    assert format_metric("importance_hog", 0.123) == "12.3 points"
    assert (format_bytes(4_200_000), format_bytes(10)) == ("4.2 MB", "0.0 kB")
    assert all(label.label[0].isupper() for label in METRICS.values())


def test_stylesheet_of_others_is_as_published_with_its_licence() -> None:
    folder = ROOT / "eyevsai" / "reports" / "templates" / "vendor"
    licence = (folder / "simple.LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in licence
    assert {path.name for path in folder.iterdir()} == {"simple.LICENSE", "simple.min.css"}
    content = render_evaluation(evaluate())
    assert licence in content  # each copy must have it
    assert (folder / "simple.min.css").read_text(encoding="utf-8") in content
