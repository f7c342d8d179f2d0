from __future__ import annotations

import math
import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_ndtr
from scipy.stats import chi2, chi2_contingency, ks_2samp, mannwhitneyu

from eyevsai.core.errors import UserError
from eyevsai.evaluation.drift import (
    Distance,
    Drift,
    compare_statistics,
    detect_drift,
    explain_statistics,
)
from eyevsai.evaluation.image_statistics import STATISTICS, measure_image
from eyevsai.evaluation.monitor_settings import MIN_IMAGES
from eyevsai.evaluation.two_sample import ReferenceColumns, compare_counts, ks_log_p, rank_sum_log_p
from eyevsai.evaluation.windows import (
    check_probabilities,
    is_persistent,
    split_windows,
)

CLASSES = ("a", "b", "c", "d")
Values = npt.NDArray[np.float32]


def predict(images: int, seed: int, sharpness: float = 6.0) -> Values:
    """Return N,4 probabilities of a confident model; a lower sharpness is less confident."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(images, len(CLASSES)))
    logits[np.arange(images), random.integers(0, len(CLASSES), images)] += sharpness
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


HALVES = st.floats(-2, 2, width=16) | st.floats(0, 1, width=16) | st.sampled_from([0.0, -0.0, 1.0])


@given(
    reference=arrays(np.float16, (37, 3), elements=HALVES),
    window=arrays(np.float16, (30, 3), elements=HALVES),
)
def test_distances_are_those_of_scipy_with_ties(
    reference: npt.NDArray[np.float16], window: npt.NDArray[np.float16]
) -> None:
    columns = ReferenceColumns(reference)
    distances, superiority = columns.compare(window)
    for column in range(3):
        first, second = reference[:, column].astype(float), window[:, column].astype(float)
        assert distances[column] == pytest.approx(
            ks_2samp(first, second, method="asymp").statistic, abs=1e-12
        )
        statistic = mannwhitneyu(second, first, method="asymptotic").statistic
        assert superiority[column] == pytest.approx(statistic / (37 * 30), abs=1e-12)
    assert columns.images == 37
    assert columns.means == pytest.approx(reference.astype(float).mean(axis=0))


@pytest.mark.parametrize(("reference", "window"), [(200, 30), (300, 50), (500, 200), (7_000, 200)])
@pytest.mark.parametrize("shift", [0.15, 0.3, 0.6])
def test_p_values_are_at_least_the_exact_ones(reference: int, window: int, shift: float) -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=reference), random.normal(shift, size=window)
    exact = ks_2samp(first, second, method="exact")
    log_p = ks_log_p(np.array([exact.statistic]), reference, window)[0]
    assert math.log(exact.pvalue) <= log_p
    assert log_p <= math.log(exact.pvalue) + (0.25 if exact.pvalue > 1e-3 else 1.5)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.5])
def test_p_values_of_ranks_are_those_of_scipy(shift: float) -> None:
    random = np.random.default_rng(0)
    first, second = random.normal(size=300), random.normal(shift, size=100)
    expected = mannwhitneyu(second, first, method="asymptotic", use_continuity=False)
    superiority = expected.statistic / 30_000
    log_p = rank_sum_log_p(superiority, 300, 100)
    assert log_p == pytest.approx(math.log(expected.pvalue), abs=1e-9)
    assert rank_sum_log_p(1 - superiority, 300, 100) == pytest.approx(log_p)
    assert rank_sum_log_p(1.0, 100_000, 100_000) < -10_000


def test_p_values_of_large_distances_do_not_underflow() -> None:
    log_p = ks_log_p(np.array([0.0, 0.5, 1.0]), 10_000, 10_000)
    assert log_p[0] == 0
    assert log_p[2] == pytest.approx(math.log(2) - 10_000)
    assert (np.diff(log_p) < 0).all()


def test_p_values_are_continuous_where_the_series_is_replaced() -> None:
    z = np.array([3.999, 4.001])
    log_p = ks_log_p(z / math.sqrt(5_000), 10_000, 10_000)
    assert np.diff(log_p) == pytest.approx(-2 * (4.001**2 - 3.999**2), rel=1e-6)


@given(
    counts=arrays(np.int64, (2, 4), elements=st.integers(25, 400)),
)
def test_counts_are_compared_as_by_scipy(counts: npt.NDArray[np.int64]) -> None:
    distance, log_p = compare_counts(*counts)
    expected = chi2_contingency(counts, correction=False)
    # where five images are expected of each class
    if expected.expected_freq.min() >= 5:
        assert log_p == pytest.approx(chi2.logsf(expected.statistic, 3), rel=1e-6, abs=1e-9)
    shares = counts / counts.sum(axis=1, keepdims=True)
    assert distance == pytest.approx(np.abs(shares[0] - shares[1]).sum() / 2)


def test_p_values_of_counts_do_not_underflow_and_rare_classes_are_pooled() -> None:
    first, second = np.array([9_000, 1_000, 0, 1, 2]), np.array([1_000, 9_000, 2, 1, 0])
    pooled = compare_counts(first[:2], second[:2])
    assert compare_counts(first, second)[1] == pytest.approx(pooled[1], rel=1e-3)
    statistic = chi2_contingency([first[:2], second[:2]], correction=False).statistic
    # of one degree of freedom: the two tails of a normal distribution
    assert pooled[1] == pytest.approx(math.log(2) + log_ndtr(-math.sqrt(statistic)), rel=1e-12)
    assert compare_counts(np.array([40, 0]), np.array([35, 0])) == (0.0, 0.0)
    assert compare_counts(np.array([2, 1]), np.array([1, 2]))[1] == 0.0  # too few for a test


@pytest.mark.parametrize("size", [600, 60_000])
def test_p_values_of_counts_have_the_closed_forms_of_few_degrees(size: int) -> None:
    def compare(*shares: float) -> tuple[float, float]:
        first = np.array(shares) * size
        counts = first.astype(np.int64), first[::-1].astype(np.int64)
        return chi2_contingency(counts).statistic / 2, compare_counts(*counts)[1]

    x, log_p = compare(0.5, 0.3, 0.2)  # 2 degrees of freedom
    assert log_p == pytest.approx(-x, rel=1e-12)
    x, log_p = compare(0.4, 0.25, 0.15, 0.12, 0.08)  # 4
    assert log_p == pytest.approx(-x + math.log1p(x), rel=1e-12)


def test_p_values_of_equal_classes_are_uniform() -> None:
    random = np.random.default_rng(0)
    shares = random.dirichlet(np.full(60, 2.0))
    counts = zip(
        random.multinomial(600, shares, 4_000), random.multinomial(200, shares, 4_000), strict=True
    )
    p_values = np.exp([compare_counts(*each)[1] for each in counts])
    for level in (0.5, 0.1, 0.01):
        assert (p_values <= level).mean() == pytest.approx(level, rel=0.35)


def test_windows_of_the_same_distribution_raise_no_alarm() -> None:
    drifts = [
        detect_drift(predict(500, 2 * seed), predict(200, 2 * seed + 1), CLASSES)
        for seed in range(400)
    ]
    assert sum(drift.is_alarm for drift in drifts) <= 1
    # p-values are conservative: columns depend on each other, and Bonferroni ignores it
    assert np.mean([drift.log_p <= math.log(0.05) for drift in drifts]) <= 0.05


def test_loss_of_confidence_is_found_and_named() -> None:
    drift = detect_drift(predict(500, 0), predict(200, 1, sharpness=3.0), CLASSES)
    assert drift.is_alarm
    assert drift.strongest.name == "confidence"
    assert drift.confidence.window_mean < drift.confidence.reference_mean
    assert drift.log_p == pytest.approx(drift.confidence.log_p + math.log(2))
    assert [column.name for column in drift.columns] == list(CLASSES)


def test_the_confidence_of_models_that_are_nearly_certain_is_compared() -> None:
    # nearly all confidences are 1 in float16
    drift = detect_drift(predict(500, 0, 14.0), predict(200, 1, 13.0), CLASSES)
    assert drift.confidence.log_p < math.log(1e-9)
    assert drift.confidence.window_mean == pytest.approx(1.0, abs=1e-4)


def test_missing_classes_are_found() -> None:
    window = predict(400, 1)
    drift = detect_drift(predict(500, 0), window[window.argmax(axis=1) != 0], CLASSES)
    assert drift.is_alarm
    assert drift.strongest.name == "predicted as a"
    assert drift.strongest.window_mean == 0
    assert drift.strongest.distance == pytest.approx(drift.strongest.reference_mean)
    assert drift.columns[0].log_p < math.log(1e-6)


def test_differences_that_do_not_matter_raise_no_alarm_in_large_windows() -> None:
    reference, window = predict(20_000, 0), predict(20_000, 1, sharpness=5.85)
    drift = detect_drift(reference, window, CLASSES)
    assert drift.log_p < math.log(1e-6)
    assert max(each.distance for each in drift.tests) < 0.1
    assert not drift.is_alarm
    assert detect_drift(reference, window, CLASSES, min_distance=0.0).is_alarm


def test_the_strongest_difference_is_one_that_raises_the_alarm() -> None:
    small = Distance("small", 0.04, -400.0, 0.5, 0.5)
    large = Distance("large", 0.2, -30.0, 0.5, 0.6)
    none = Distance("none", 0.5, -1.0, 0.5, 0.6)
    drift = Drift(900, 900, (small, none), large, none, alpha=0.001, min_distance=0.1)
    assert drift.is_alarm
    assert drift.strongest == large
    assert drift.log_p == pytest.approx(-30 + math.log(2))
    drift = Drift(900, 900, (small,), none, none, alpha=0.001, min_distance=0.1)
    assert not drift.is_alarm
    assert drift.strongest == small


def test_the_order_of_images_is_irrelevant() -> None:
    reference, window = predict(300, 0), predict(100, 1)
    shuffled = detect_drift(reference[::-1], np.random.default_rng(0).permutation(window), CLASSES)
    drift = detect_drift(reference, window, CLASSES)
    assert shuffled.log_p == drift.log_p
    assert [each.distance for each in shuffled.columns] == [each.distance for each in drift.columns]


def test_rounding_of_a_stored_reference_is_no_drift() -> None:
    # probabilities below 6e-8 are 0 in float16
    window = predict(2_000, 0, sharpness=25.0)
    drift = detect_drift(window.astype(np.float16), window, CLASSES)
    assert all(each.distance == 0.0 for each in drift.tests)


def test_ten_thousand_images_of_60_classes_take_little_memory() -> None:
    random = np.random.default_rng(0)
    reference = random.dirichlet(np.full(60, 0.05), 2_000).astype(np.float16)
    window = random.dirichlet(np.full(60, 0.05), 10_000).astype(np.float16)
    classes = [str(number) for number in range(60)]
    detect_drift(reference[:30], window[:30], classes)  # imports
    tracemalloc.start()
    detect_drift(reference, window, classes)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


@pytest.mark.parametrize(
    ("window", "message"),
    [
        (predict(29, 0), "The window has 29 images, too few"),
        (predict(60, 0)[:, :3], "probabilities of 3 classes, the model has 4"),
        (predict(60, 0)[0], "probabilities of no classes"),
        (np.where(np.arange(60)[:, None] < 2, np.nan, predict(60, 0)), "NaN .* for 2 of 60 images"),
        (predict(60, 0) * 2, "no probabilities: the sum of image 0 is 2.000"),
        (predict(60, 0) - [1, -1, 0, 0], "smallest value -"),
    ],
)
def test_bad_windows_are_rejected(window: Values, message: str) -> None:
    with pytest.raises(UserError, match=message):
        detect_drift(predict(100, 0), window, CLASSES)
    with pytest.raises(UserError, match=message.replace("window", "reference")):
        detect_drift(window, predict(100, 0), CLASSES)


def test_check_returns_the_same_values_in_float16() -> None:
    values = predict(MIN_IMAGES, 0)
    checked = check_probabilities(values, 4, "the window")
    assert checked.dtype == np.float16
    assert checked == pytest.approx(values, rel=1e-3, abs=1e-7)


def test_windows_cover_all_images_in_order() -> None:
    assert split_windows(450, 200) == [slice(0, 200), slice(200, 400), slice(400, 450)]
    assert split_windows(420, 200) == [slice(0, 200), slice(200, 420)]
    assert split_windows(31, 200) == [slice(0, 31)]
    with pytest.raises(UserError, match="There are 29 images"):
        split_windows(29, 200)
    with pytest.raises(UserError, match="window of 29 images"):
        split_windows(500, 29)


@given(images=st.integers(MIN_IMAGES, 5_000), size=st.integers(MIN_IMAGES, 600))
def test_no_window_is_too_small(images: int, size: int) -> None:
    windows = split_windows(images, size)
    assert [each.start for each in windows[1:]] == [each.stop for each in windows[:-1]]
    assert (windows[0].start, windows[-1].stop) == (0, images)
    assert all(MIN_IMAGES <= each.stop - each.start < size + MIN_IMAGES for each in windows)


@pytest.mark.parametrize(
    ("drifted", "expected"),
    [
        *((each, True) for each in ("1", "11", "101", "00110", "0010100")),
        *((each, False) for each in ("", "0", "01", "1001", "0010010", "0001")),
    ],
)
def test_two_of_three_windows_raise_an_alarm(drifted: str, expected: bool) -> None:
    assert is_persistent([each == "1" for each in drifted]) is expected


def draw_scene(seed: int) -> npt.NDArray[np.uint8]:
    """Return a 48,48,3 image of random blocks with a gradient."""
    random = np.random.default_rng(seed)
    blocks = random.integers(40, 216, (12, 12, 3)).repeat(4, axis=0).repeat(4, axis=1)
    return (blocks * np.linspace(0.8, 1.0, 48)[:, None, None]).astype(np.uint8)


def measure(images: list[npt.NDArray[np.uint8]], aspect: float = 1.0) -> npt.NDArray[np.float32]:
    return np.stack([measure_image(image, aspect) for image in images])


def test_statistics_of_simple_images() -> None:
    red = np.zeros((8, 8, 3), dtype=np.uint8)
    red[..., 0] = 255
    assert dict(zip(STATISTICS, measure_image(red, 2.0), strict=True)) == pytest.approx(
        {
            "brightness": 0.299,
            "contrast": 0.0,
            "sharpness": 0.0,
            "saturation": 1.0,
            "red_minus_blue": 1.0,
            "aspect": 2.0,
        },
        abs=1e-6,
    )
    stripes = np.zeros((8, 8, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    values = dict(zip(STATISTICS, measure_image(stripes, 1.0), strict=True))
    assert values["brightness"] == values["contrast"] == pytest.approx(0.5)
    # the Laplacian is -510 and +510 in alternate columns
    assert values["sharpness"] == pytest.approx(math.log1p(510**2), rel=1e-4)
    assert values["saturation"] == values["red_minus_blue"] == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image // 2, {"darker"}),
        (lambda image: 128 + image // 4, {"brighter", "less contrast", "less saturated"}),
        (lambda image: image[..., [2, 1, 0]] // np.array([2, 1, 1]), {"bluer"}),
        (
            lambda image: (
                (image.astype(np.uint16) + np.roll(image, 1, 0) + np.roll(image, 1, 1)) // 3
            ),
            {"blurred"},
        ),
    ],
)
def test_statistics_explain_a_change(change, words: set[str]) -> None:  # type: ignore[no-untyped-def]
    images = [draw_scene(seed) for seed in range(120)]
    changed = [change(draw_scene(seed)).astype(np.uint8) for seed in range(120, 180)]
    distances = compare_statistics(measure(images), measure(changed))
    assert [each.name for each in distances] == list(STATISTICS)
    assert words <= set(explain_statistics(distances))
    same = [draw_scene(seed) for seed in range(200, 260)]
    assert explain_statistics(compare_statistics(measure(images), measure(same))) == []
    wider = explain_statistics(compare_statistics(measure(images), measure(same, aspect=1.5)))
    assert wider == ["wider"]
