from __future__ import annotations

import json
import time

import numpy as np
import numpy.typing as npt
import pytest

from eyevsai.core.errors import UserError
from eyevsai.evaluation.comparison import WindowComparer
from eyevsai.evaluation.drift import compare_statistics, detect_drift
from eyevsai.evaluation.estimation import estimate_accuracy
from eyevsai.evaluation.image_statistics import STATISTICS
from eyevsai.evaluation.label_shift import estimate_label_shift
from eyevsai.evaluation.reference import Reference, choose_rows, make_reference

Values = npt.NDArray[np.float32]


def predict(images: int, num_classes: int, seed: int) -> Values:
    random = np.random.default_rng(seed)
    return random.dirichlet(np.full(num_classes, 0.1), images).astype(np.float32)


def make(num_classes: int, images: int = 500) -> Reference:
    random = np.random.default_rng(0)
    labels = random.integers(0, num_classes - 1, images)  # no images of the last class
    rows = choose_rows(labels, num_classes, seed=0)
    return make_reference(
        tuple(map(str, range(num_classes))),
        predict(images, num_classes, 1),
        labels,
        rows,
        random.random((len(rows), len(STATISTICS)), dtype=np.float32),
        split="test",
        temperature=1.0,
    )


def test_a_comparison_has_the_results_of_its_parts() -> None:
    reference = make(5)
    window = predict(200, 5, 2)
    statistics = np.random.default_rng(3).random((200, 6), dtype=np.float32) / 2
    result = WindowComparer(reference).compare(window, statistics)
    stored, classes = reference.probabilities, reference.classes
    assert result.drift == detect_drift(stored, window, classes)
    assert result.statistics == compare_statistics(reference.statistics, statistics)
    assert result.explanation[0] in {words[0] for words in STATISTICS.values()}
    assert result.accuracy == estimate_accuracy(reference.baseline, window)
    shift = estimate_label_shift(stored, reference.labels, window, classes)
    assert np.array_equal(result.label_shift.shares, shift.shares, equal_nan=True)
    # the log of a server has float16
    assert WindowComparer(reference).compare(window.astype(np.float16), statistics) is not None
    assert result.metrics()["drift_log_p"] == result.drift.log_p
    values = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert values["label_shift"]["shares"]["4"] is None
    assert values["strongest"]["name"] == result.drift.strongest.name


def test_thresholds_are_those_of_the_arguments() -> None:
    comparer = WindowComparer(make(3), alpha=0.5, min_distance=0.0)
    drift = comparer.compare(predict(200, 3, 5), np.zeros((200, 6), dtype=np.float32)).drift
    assert (drift.alpha, drift.min_distance) == (0.5, 0.0)


def test_statistics_that_do_not_fit_are_rejected() -> None:
    comparer, window = WindowComparer(make(3)), predict(40, 3, 0)
    with pytest.raises(UserError, match=r"shape \(39, 6\).*\(40, 6\) finite values"):
        comparer.compare(window, np.zeros((39, 6), dtype=np.float32))
    with pytest.raises(UserError, match="NaN or infinite"):
        comparer.compare(window, np.full((40, 6), np.nan, dtype=np.float32))


def test_a_million_predictions_take_seconds() -> None:
    comparer = WindowComparer(make(15, images=20_000))
    window = predict(200, 15, 2).astype(np.float16)
    statistics = np.random.default_rng(3).random((200, 6), dtype=np.float32)
    began = time.process_time()
    for _ in range(100):  # of 5,000 windows
        comparer.compare(window, statistics)
    assert (time.process_time() - began) * 50 < 20  # 3 s on a quiet machine
