"""Metrics of an evaluation, compared with those of scikit-learn and with their definitions."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from eyevsai.core.errors import UserError
from eyevsai.evaluation.calibration import (
    apply_temperature,
    calibration_error,
    fit_temperature,
    reliability,
)
from eyevsai.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from eyevsai.evaluation.metrics import all_metrics, basic_metrics, class_metrics
from eyevsai.evaluation.results import EvaluationResult, before_temperature
from eyevsai.evaluation.selective import coverage_curve, evaluate_threshold, find_threshold
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.evaluation.significance import accuracy_interval, mcnemar
from eyevsai.reports.comparison_table import print_comparison
from eyevsai.reports.evaluation_page import render_evaluation_page
from eyevsai.reports.evaluation_plots import plot_classes
from eyevsai.reports.plots import plot_confusion_matrix
from tests.conftest import draw_image


def draw_predictions(seed: int, count: int = 200, classes: int = 7, skill: float = 2.0):  # type: ignore[no-untyped-def]
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    logits = random.standard_normal((count, classes)) * 2
    logits[np.arange(count), labels] += skill
    powers = np.exp(logits)
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32), labels


def test_figures_are_scikit_learns() -> None:
    probabilities, labels = draw_predictions(0)
    found, said = all_metrics(probabilities, labels), probabilities.argmax(1)
    exact = probabilities.astype(np.float64)
    exact /= exact.sum(1, keepdims=True)
    expected = {
        "accuracy": metrics.accuracy_score(labels, said),
        "top5_accuracy": metrics.top_k_accuracy_score(labels, probabilities, k=5),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, said),
        "macro_f1": metrics.f1_score(labels, said, average="macro"),
        "weighted_f1": metrics.f1_score(labels, said, average="weighted"),
        "loss": metrics.log_loss(labels, exact),
        "brier": metrics.brier_score_loss(labels, exact, labels=np.arange(7), scale_by_half=False),
        "roc_auc": metrics.roc_auc_score(labels, exact, multi_class="ovr"),
        "average_precision": metrics.average_precision_score(np.eye(7)[labels], exact),
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=0, abs=1e-12), name
    report = metrics.classification_report(labels, said, output_dict=True)
    for number, row in enumerate(class_metrics(probabilities, labels)):
        theirs = report[str(number)]
        assert list(row.values()) == pytest.approx(
            [theirs[key] for key in ("precision", "recall", "f1-score", "support")],
            rel=0,
            abs=1e-12,
        )


def test_classes_that_nobody_shows_do_not_count() -> None:
    probabilities, labels = draw_predictions(1, classes=4)
    kept = labels != 3
    found = all_metrics(probabilities[kept], labels[kept])
    assert 0 < found["roc_auc"] < 1
    flawless = all_metrics(np.eye(60, dtype=np.float32)[labels], labels)
    assert [
        flawless[name] for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")
    ] == [1.0] * 4
    alone = labels == 0
    assert "roc_auc" not in all_metrics(probabilities[alone], labels[alone])


def test_a_tie_is_no_hit_among_the_first_five() -> None:
    sure = np.zeros((60, 60), np.float32)
    sure[:, 0] = 1  # of one class, and all others alike
    assert all_metrics(sure, np.arange(60))["top5_accuracy"] == pytest.approx(5 / 60)


@given(st.integers(0, 10_000), st.floats(0.3, 8.0))
def test_a_temperature_never_makes_what_it_was_fitted_to_less_probable(
    seed: int, sharpness: float
) -> None:
    probabilities, labels = draw_predictions(seed, count=60)
    probabilities = apply_temperature(probabilities, 1 / sharpness)
    temperature = fit_temperature(probabilities, labels)
    calibrated = apply_temperature(probabilities, temperature)
    assert basic_metrics(calibrated, labels)["loss"] <= basic_metrics(probabilities, labels)["loss"]
    # ties of saturated rows excepted
    assert (calibrated.argmax(1) == probabilities.argmax(1)).mean() > 0.98


def test_a_temperature_is_found_again_and_can_be_taken_back() -> None:
    random = np.random.default_rng(3)
    probabilities, _ = draw_predictions(3, count=4000)
    labels = np.array(
        [random.choice(7, p=row / row.sum()) for row in probabilities.astype(np.float64)]
    )
    overconfident = apply_temperature(probabilities, 0.5)
    temperature = fit_temperature(overconfident, labels)
    assert temperature == pytest.approx(2.0, rel=0.1)
    calibrated = apply_temperature(overconfident, temperature)
    assert calibration_error(calibrated, labels) < 0.03 < calibration_error(overconfident, labels)
    np.testing.assert_allclose(
        before_temperature(calibrated, temperature), overconfident, atol=1e-6
    )


def test_the_calibration_error_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.3, 0.7], [0.3, 0.7]], dtype=np.float32)
    labels = np.array([0, 1, 1, 1])
    assert calibration_error(probabilities, labels) == pytest.approx(
        0.5 * 0.4 + 0.5 * 0.3, abs=1e-6
    )
    assert [(each.count, each.accuracy) for each in reliability(probabilities, labels)] == [
        (2, 1.0),
        (2, 0.5),
    ]


@given(st.integers(0, 10_000), st.floats(0.3, 0.99))
def test_a_threshold_keeps_its_promise_and_is_the_lowest_that_does(
    seed: int, precision: float
) -> None:
    probabilities, labels = draw_predictions(seed, count=80)
    threshold = find_threshold(probabilities, labels, precision)
    confidences = np.unique(probabilities.max(1))
    good = [
        each
        for each in confidences
        if evaluate_threshold(probabilities, labels, each).precision >= precision
    ]
    assert threshold == (float(min(good)) if good else None)


def test_coverage_falls_to_one_image() -> None:
    probabilities, labels = draw_predictions(5)
    coverage, precision = coverage_curve(probabilities, labels)
    assert (coverage[0], coverage[-1], precision[-1]) == (
        1 / 200,
        1.0,
        basic_metrics(probabilities, labels)["accuracy"],
    )
    assert evaluate_threshold(probabilities, labels, 1.1).precision == 1.0


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    intervals = [accuracy_interval(random.random(200) < 0.8, seed) for seed in range(60)]
    covered = sum(each.low <= 0.8 <= each.high for each in intervals)
    assert 50 <= covered <= 60
    assert all(each.high - each.low < 0.15 for each in intervals)
    sure = accuracy_interval(np.ones(100, dtype=bool), 0)
    assert (sure.low, sure.high) == (0.97, 1.0)
    assert accuracy_interval(np.zeros(100, dtype=bool), 0).high == 0.03


def test_mcnemar_by_hand() -> None:
    first = np.array([True] * 10 + [False] * 2 + [True] * 30)
    second = np.array([False] * 10 + [True] * 2 + [True] * 30)
    found = mcnemar(first, second)
    assert (found.only_first, found.only_second) == (10, 2)
    # both tails of twelve fair coins
    assert found.p_value == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert mcnemar(first, first).p_value == 1.0


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow_with_severity_and_repeat(kind: str) -> None:
    image = draw_image(1, 3, 64, 48)
    spoiled = [corrupt(image, kind, severity, seed=4) for severity in SEVERITIES]
    distances = [np.abs(each.astype(int) - image).mean() for each in spoiled]
    assert 0 < distances[0] < distances[1] < distances[2]
    assert all(each.shape == image.shape and each.dtype == np.uint8 for each in spoiled)
    assert np.array_equal(spoiled[1], corrupt(image, kind, 2, seed=4))


def test_an_evaluation_result_has_every_metric() -> None:
    probabilities, labels = draw_predictions(7)
    classes = tuple("abcdefg")
    result = EvaluationResult(
        classes,
        labels,
        probabilities,
        apply_temperature(probabilities, 0.5),
        0,
        {"images_per_s": 9.0},
        {"blur": [0.9, 0.8, 0.7, 0.6]},
        evaluate_threshold(probabilities, labels, 0.5),
    )
    found = result.metrics()
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert (found["blur_1"], found["blur_3"], found["images_per_s"]) == (0.8, 0.6, 9.0)
    assert found["uncalibrated_loss"] != found["loss"]
    assert found["answered_accuracy"] > found["accuracy"]
    pairs = result.most_confused(3)
    matrix = result.confusion_matrix()
    np.fill_diagonal(matrix, 0)
    assert [count for *_, count in pairs] == sorted(matrix.ravel())[::-1][:3]
    assert all(
        matrix[classes.index(true), classes.index(said)] == count for true, said, count in pairs
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "A model is required"),
        (
            {"run": "a", "model_uri": "models:/b/1"},
            "--run a and --model-uri models:/b/1 contradict",
        ),
        ({"run": "a", "class_map": "m.toml"}, "--class-map m.toml requires --data"),
        ({"run": "a", "data": "d", "target_precision": 0.9}, "Remove --data"),
        ({"run": "a", "target_precision": 1.5}, "not allowed"),
    ],
)
def test_settings_that_do_not_go_together(given: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        EvaluateSettings(**given)  # type: ignore[arg-type]


def test_names_that_look_like_formulas_are_drawn_as_they_are() -> None:
    names = ["US$_and_$CA", "$", "[/b]"]
    rows = [{"f1": 0.5, "support": 3.0}] * 3
    for figure in (
        plot_confusion_matrix(np.eye(3, dtype=np.int64), names),
        plot_classes(rows, names),
    ):
        figure.savefig(io.BytesIO(), format="png")
        assert "US$_and_$CA" in {
            label.get_text().replace("\\$", "$") for label in figure.axes[0].get_yticklabels()
        }


def test_a_comparison_on_the_terminal_shows_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    model = {"title": "models:/a/1", "interval": {"low": 0.1, "high": 0.2}, "metrics": {}}
    print_comparison(
        {"models": [model], "images": 3, "settings": {"data": ["/x/[/old]/y"]}, "pairs": []}
    )
    assert "/x/[/old]/y" in capsys.readouterr().out


def test_names_in_the_evaluation_page_are_escaped() -> None:
    probabilities, labels = draw_predictions(7)
    hostile = "<script>alert(1)</script>"
    classes = (hostile, *"bcdefg")
    result = EvaluationResult(
        classes, labels, probabilities, probabilities, 0, {"images_per_s": 9.0}, {}
    )
    page = render_evaluation_page(hostile, hostile, result, result.metrics(), {})
    assert hostile not in page
    assert page.count("&lt;script&gt;") >= 4  # title twice, dataset, class
