"""The shallow family: every setting reaches what it names, and what was fitted is what scikit-learn
fitted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import SVC

from eyevsai.config import compose_train
from eyevsai.core.errors import UserError
from eyevsai.core.settings import list_settings
from eyevsai.data import parallel
from eyevsai.data.dataset import Data, load_dataset
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import DataSettings
from eyevsai.explanation.permutation_importance import permutation_importance
from eyevsai.features.extractor import Extractor
from eyevsai.models.serialization import add_checksum, load, save
from eyevsai.models.shallow import extraction, svm
from eyevsai.models.shallow.calibration import fit_temperature
from eyevsai.models.shallow.forest import fit_forest, read_forest
from eyevsai.models.shallow.learner import ShallowLearner
from eyevsai.models.shallow.projection import fit_projection
from eyevsai.models.shallow.settings import ForestSettings, ShallowSettings, SvmSettings
from eyevsai.models.shallow.svm import fit_svm
from tests.conftest import PHOTOS, ROOT, write_images

SVM = SvmSettings(image_size=32, components=6, threads=1)
FOREST = ForestSettings(image_size=32, n_estimators=5, threads=1)

# What else has to be so for a setting to matter, and the value it is changed to.
CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "image_size": ({}, 48),
    "class_weights": ({"C": 0.1}, True),
    "features": ({}, "lbp,color"),
    "hog_cells": ({}, 4),
    "hog_orientations": ({}, 6),
    "hog_color": ({}, False),
    "lbp_neighbours": ({}, "16"),
    "color_hues": ({}, 6),
    "color_tones": ({}, 2),
    "pyramid_levels": ({}, 1),
    "square_root": ({}, False),
    "words": ({}, 16),
    "word_cells": ({}, 8),
    "balance": ({}, False),
    "standardize": ({}, False),
    "reduction": ({}, "svd"),
    "components": ({"reduction": "pca"}, 3),
    "discriminant_shrinkage": ({}, None),
    "C": ({}, 0.01),
    "kernel": ({}, "linear"),
    "gamma": ({}, 0.5),
    "degree": ({"kernel": "poly"}, 2),
    "n_estimators": ({}, 3),
    "max_depth": ({}, 1),
    "min_samples_leaf": ({}, 8),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Callable[[int], Data]:
    folder = write_images(
        tmp_path_factory.mktemp("uneven") / "set", {"across": 20, "down": 14, "wide": 9}
    )
    dataset = load_dataset(DataSettings(data=str(folder), cache_dir=str(cache_dir)))
    return lambda size: dataset.open(Preprocessing(size))


def fitted(data: Callable[[int], Data], settings: ShallowSettings) -> ShallowLearner:
    source = data(settings.image_size)
    variation = "svm_hog_lbp" if isinstance(settings, SvmSettings) else "rf_hog_lbp"
    learner = ShallowLearner(variation, settings, source.dataset.classes, 0)
    learner.fit(source.train, source.valid, lambda epoch, row: None)
    return learner


@pytest.fixture(scope="module")
def tensors(data: Callable[[int], Data]) -> Callable[[ShallowSettings], dict[str, torch.Tensor]]:
    """What is fitted with given settings, once for all tests that start from the same."""
    return cache(lambda settings: fitted(data, settings).tensors())


def test_every_setting_is_looked_at() -> None:
    declared = {
        setting.name for cls in (SvmSettings, ForestSettings) for setting in list_settings(cls)
    }
    assert set(CHANGES) | {"threads"} == declared


@pytest.mark.parametrize("base", [SVM, FOREST], ids=["svm", "forest"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_setting_changes_the_model(
    tensors: Callable[[ShallowSettings], dict[str, torch.Tensor]], base: ShallowSettings, name: str
) -> None:
    given, changed = CHANGES[name]
    known = {setting.name for setting in list_settings(type(base))}
    if name not in known:
        pytest.skip("a setting of the other variation")
    settings = replace(base, **{key: value for key, value in given.items() if key in known})
    before, after = (tensors(each) for each in (settings, replace(settings, **{name: changed})))
    same = all(
        before[key].shape == after[key].shape and torch.equal(before[key], after[key])
        for key in before
    )
    if name == "standardize" and isinstance(base, ForestSettings):
        assert not torch.equal(before["projection.scale"], after["projection.scale"])
    assert not same


def test_images_are_described_once_for_all_estimators(
    data: Callable[[int], Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fitted(data, SVM)

    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("images were described again")

    monkeypatch.setattr(extraction, "_extract", refuse)
    monkeypatch.setattr(extraction, "_fit_table", refuse)
    assert (
        fitted(data, replace(SVM, C=0.01)).temperature_.state_dict()
        != first.temperature_.state_dict()
    )
    with pytest.raises(AssertionError, match="described again"):
        # of no other test: what one described stays described
        fitted(data, replace(SVM, color_hues=7))
    source = data(SVM.image_size)
    uncached = replace(source.train, cache=None)
    with pytest.raises(AssertionError, match="described again"):
        first.extract(uncached)


def test_threads_reach_torch_and_are_said(data: Callable[[int], Data]) -> None:
    try:
        learner = fitted(data, replace(SVM, threads=2))
        assert torch.get_num_threads() == 2
        assert learner.compute() == {"device": "cpu", "precision": "float64", "threads": "2"}
    finally:
        torch.set_num_threads(1)


@pytest.fixture(scope="module", params=["made", "photos"])
def inputs(
    request: pytest.FixtureRequest, cache_dir: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Projected features and labels to fit to, and others to predict."""
    if request.param == "made":
        random = np.random.default_rng(0)
        labels = random.integers(0, 7, 300)
        return (
            random.normal(size=(300, 12)) + labels[:, None] / 3,
            labels,
            random.normal(size=(50, 12)),
        )
    if not PHOTOS.is_dir():
        pytest.skip(f"no photographs at {PHOTOS}: set EYEVSAI_PHOTOS")
    settings = SvmSettings(image_size=64, components=60)
    chosen = DataSettings(dataset="vegetables", data_dir=str(PHOTOS), cache_dir=str(cache_dir))
    dataset = load_dataset(chosen)
    learner = ShallowLearner("svm_hog_lbp", settings, dataset.classes, 0)
    opened = dataset.open(learner.preprocessing)
    train, valid = learner.extract(opened.train), learner.extract(opened.valid)
    projection = fit_projection(settings, train.numpy(), learner.extractor.groups, 0)
    return projection(train).numpy(), opened.train.labels.numpy(), projection(valid).numpy()


@pytest.mark.xdist_group("inputs")  # one worker describes the photographs
@pytest.mark.parametrize("kernel", ["linear", "rbf", "poly"])
@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize("shared_rows", [0, 6000])
def test_machines_decide_as_scikit_learns(
    inputs: tuple[np.ndarray, np.ndarray, np.ndarray],
    kernel: str,
    num_classes: int,
    shared_rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(svm, "SHARED_KERNEL_ROWS", shared_rows)
    features, labels, others = inputs
    features, labels = features[labels < num_classes], labels[labels < num_classes]
    settings = SvmSettings(kernel=kernel, C=2.0, gamma=0.01)
    machines = fit_svm(settings, features, labels, np.ones(len(labels)), seed=0, threads=2)
    peer = OneVsRestClassifier(SVC(C=2.0, kernel=kernel, gamma=0.01)).fit(features, labels)
    scores = machines(torch.from_numpy(others)).numpy()
    expected = peer.decision_function(others)
    np.testing.assert_allclose(scores if num_classes > 2 else scores[:, 1], expected, atol=1e-6)
    np.testing.assert_array_equal(scores.argmax(1), peer.predict(others))


def test_machines_decide_alike_where_there_is_no_float64() -> None:
    """Sums whose parts cancel out; added up one after another in float32, class by class, they are
    wrong by 1e-4.
    """
    random = np.random.default_rng(0)
    inputs, labels = random.normal(size=(1000, 50)), np.arange(1000) * 5 // 1000
    machines = fit_svm(
        SvmSettings(C=10.0, gamma=0.02), inputs, labels, np.ones(1000), seed=0, threads=2
    )
    others = torch.from_numpy(random.normal(size=(300, 50)))
    exact = machines(others)
    assert (machines.float()(others.float()) - exact).abs().max() <= 1e-5


@pytest.mark.xdist_group("inputs")
@pytest.mark.parametrize("max_depth", [1, 5, None])
def test_a_forest_votes_as_scikit_learns(
    inputs: tuple[np.ndarray, np.ndarray, np.ndarray], max_depth: int | None
) -> None:
    features, labels, others = inputs
    peer = RandomForestClassifier(20, max_depth=max_depth, random_state=0).fit(features, labels)
    votes = read_forest(peer).votes(torch.from_numpy(others)).numpy()
    np.testing.assert_allclose(votes, peer.predict_proba(others), atol=1e-6)


def test_trees_split_components_and_discriminants_as_scikit_learns() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer

    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 300)
    inputs, others = (
        random.normal(size=(300, 60)) + np.eye(60)[labels],
        random.normal(size=(50, 60)),
    )
    settings = ForestSettings(n_estimators=20, max_depth=None, discriminant_shrinkage=0.3)
    forest = fit_forest(settings, inputs, labels, np.ones(300), seed=0, threads=1)
    peer = make_pipeline(
        make_union(
            FunctionTransformer(lambda rows: rows[:, :50]),
            LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.3),
        ),
        RandomForestClassifier(20, random_state=0),
    ).fit(inputs, labels, randomforestclassifier__sample_weight=np.ones(300))
    assert forest.tensor("axes").shape == (60, 53)
    votes = forest.votes(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(votes, peer.predict_proba(inputs), atol=1e-6)
    votes = forest.votes(torch.from_numpy(others)).numpy()
    same = np.isclose(votes, peer.predict_proba(others), atol=1e-6).all(1)
    assert same.mean() > 0.9  # the others are between our threshold and scikit-learn's


def test_no_image_is_at_a_threshold_of_a_forest() -> None:
    """The midpoint of two shares of pixels is the share of another image."""
    random = np.random.default_rng(0)
    shares = random.integers(0, 50, (200, 4)) * 2 / 100
    labels = (shares.sum(1) > 2).astype(np.int64)
    settings = ForestSettings(n_estimators=20, reduction="none")
    forest = fit_forest(settings, shares, labels, np.ones(200), seed=0, threads=1)
    peer = RandomForestClassifier(20, min_samples_leaf=1, random_state=0).fit(
        shares, labels, sample_weight=np.ones(200)
    )
    np.testing.assert_allclose(
        forest.votes(torch.from_numpy(shares)).numpy(), peer.predict_proba(shares), atol=1e-6
    )
    others = random.integers(0, 100, (300, 4)) / 100
    expected = forest.votes(torch.from_numpy(others))
    for error in (-1e-6, 1e-6):
        torch.testing.assert_close(forest.votes(torch.from_numpy(others + error)), expected)


def test_a_forest_compares_features_in_float32_without_casting_them_back() -> None:
    """ONNX Runtime before 1.17 removes a cast to float32 that is followed by one to float64."""
    random = np.random.default_rng(0)
    values = random.uniform(0, 1, (300, 3))
    peer = RandomForestClassifier(10, random_state=0).fit(values, random.integers(0, 2, 300))
    forest = read_forest(peer)
    # float64 values on both sides of each threshold, which float32 does not tell apart
    thresholds = np.concatenate([each.tree_.threshold for each in peer.estimators_])
    close = np.stack([thresholds * (1 + step) for step in (-1e-9, 0, 1e-9)], 1)
    np.testing.assert_array_equal(
        forest.votes(torch.from_numpy(close)).numpy(), peer.predict_proba(close)
    )
    program = torch.export.export(forest, (torch.from_numpy(values),))
    casts = {node for node in program.graph.nodes if "_to_copy" in str(node) or "to_" in str(node)}
    assert not [
        node
        for node in casts
        if node.meta["val"].dtype == torch.float64
        and node.args[0].meta["val"].dtype == torch.float32
    ]


@pytest.mark.parametrize("reduction", ["pca", "svd", "none"])
def test_a_projection_is_scikit_learns(reduction: str) -> None:
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    mixing = random.normal(size=(12, 30)) * 2.0 ** -np.arange(12)[:, None]
    features, others = (
        (random.normal(size=(count, 12)) @ mixing + 3).astype(np.float32) for count in (200, 50)
    )
    steps = {
        "pca": [PCA(5, svd_solver="randomized", random_state=3)],
        "none": [],
        "svd": [TruncatedSVD(5, random_state=3)],
    }[reduction]
    peer = make_pipeline(StandardScaler(), *steps).fit(features)
    settings = SvmSettings(reduction=reduction, components=5)
    groups = {"all": slice(0, 30)}  # one group: nothing to balance
    projection = fit_projection(settings, features, groups, seed=3)
    np.testing.assert_allclose(
        projection(torch.from_numpy(others)).numpy(), peer.transform(others), atol=1e-4
    )


def test_balanced_groups_have_the_same_total_variance() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(200, 30)).astype(np.float32) * np.arange(30, dtype=np.float32)
    features[:, 20:22] = 7  # a group that is constant
    groups = {"large": slice(0, 20), "constant": slice(20, 22), "small": slice(22, 30)}
    for standardize in (True, False):
        settings = SvmSettings(reduction="none", standardize=standardize)
        projection = fit_projection(settings, features, groups, seed=0)
        found = projection(torch.from_numpy(features)).numpy().var(0)
        total = {name: found[columns].sum() for name, columns in groups.items()}
        assert total["large"] == pytest.approx(total["small"], rel=1e-4)
        assert total["constant"] == 0
        plain = fit_projection(replace(settings, balance=False), features, groups, seed=0)
        kept = plain(torch.from_numpy(features)).numpy().var(0).sum()
        assert found.sum() == pytest.approx(kept, rel=1e-4)


def test_too_many_components_are_bounded_and_said(
    data: Callable[[int], Data], caplog: pytest.LogCaptureFixture
) -> None:
    learner = fitted(data, replace(SVM, components=4000))
    assert learner.projection_.tensor("axes").shape[1] == len(data(32).train) - 1
    assert "--components 4000 exceeds" in caplog.text


def test_the_temperature_makes_held_out_data_most_probable() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 600)
    scores = torch.from_numpy(random.normal(size=(600, 4)) + 2 * np.eye(4)[labels])
    seen: list[np.ndarray] = []

    def fit(rows: np.ndarray) -> Callable[[np.ndarray], torch.Tensor]:
        def score(others: np.ndarray) -> torch.Tensor:
            assert not set(rows) & set(others)
            seen.extend(others)
            return scores[others] * 10  # ten times too sure

        return score

    found = float(fit_temperature(fit, labels, 0).tensor("factor"))
    assert sorted(seen) == list(range(600))

    def loss(factor: float) -> float:
        return torch.nn.functional.cross_entropy(
            10 * factor * scores, torch.from_numpy(labels)
        ).item()

    assert 0.1 < found < 0.4
    assert loss(found) <= min(loss(found * 1.05), loss(found / 1.05))


def test_valid_is_not_learned_from(data: Callable[[int], Data]) -> None:
    source = data(32)
    learners = []
    for valid in (source.valid, source.train):
        learner = ShallowLearner("svm_hog_lbp", SVM, source.dataset.classes, 0)
        learner.fit(source.train, valid, lambda epoch, row: None)
        learners.append(learner.tensors())
    assert all(torch.equal(tensor, learners[1][name]) for name, tensor in learners[0].items())


@pytest.mark.parametrize("name", ["projection.a.b", "decision.forward", "temperature."])
def test_tensors_with_foreign_names_are_refused(
    tensors: Callable[[ShallowSettings], dict[str, torch.Tensor]],
    data: Callable[[int], Data],
    name: str,
) -> None:
    learner = ShallowLearner("svm_hog_lbp", SVM, data(32).dataset.classes, 0)
    with pytest.raises(UserError, match="do not fit"):
        learner.load_tensors(tensors(SVM) | {name: torch.zeros(2)})


def test_importance_finds_the_feature_that_tells_the_classes() -> None:
    class Leaning:
        def predict_features(self, features: np.ndarray) -> np.ndarray:
            return np.stack([features[:, 1], 1 - features[:, 1]], 1)

        def feature_groups(self) -> dict[str, slice]:
            return {"noise": slice(0, 1), "sign": slice(1, 3)}

    labels = np.arange(200) % 2
    features = np.stack([np.random.default_rng(0).random(200), 1.0 - labels, labels], 1).astype(
        np.float32
    )
    found = permutation_importance(Leaning(), features, labels, seed=0)
    assert found["noise"] == 0
    assert 0.4 < found["sign"] < 0.6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"features": ""}, "--features is empty"),
        ({"features": "hog,lpb"}, "Did you mean 'lbp'"),
        ({"features": "hog,hog"}, "has a duplicate"),
        ({"image_size": 32, "hog_cells": 20}, "--image-size 32 is too small for --hog-cells 20"),
        ({"image_size": 32, "word_cells": 20}, "--image-size 32 is too small for --word-cells 20"),
        ({"features": "words"}, "Did you mean"),
        ({"discriminant_shrinkage": 0.0, "variation": "rf_hog_lbp"}, "is not allowed"),
        ({"C": 0.0}, "--C 0.0 is not allowed"),
    ],
)
def test_a_wrong_setting_is_told(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_train({"model": "shallow", **given})


@pytest.mark.parametrize("base", [SVM, FOREST], ids=["svm", "forest"])
def test_model_saved_before_visual_words_existed_predicts_as_before(
    data: Callable[[int], Data], base: ShallowSettings, tmp_path: Path
) -> None:
    former: dict[str, Any] = {"features": "hog,lbp,color", "lbp_neighbours": "both"}
    added: dict[str, Any] = {"balance": False}
    if isinstance(base, ForestSettings):
        former["reduction"] = "none"
        added["discriminant_shrinkage"] = None
    learner = fitted(data, replace(base, **former, **added))
    save(learner, tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    for name in (*added, "words", "word_cells"):
        del card["settings"][name]
    (tmp_path / "model.json").write_text(json.dumps(add_checksum(card)))
    restored = load(tmp_path)
    assert restored.settings == learner.settings
    images = data(32).valid.arrays()
    np.testing.assert_array_equal(restored.predict_proba(images), learner.predict_proba(images))


def test_a_class_too_small_to_calibrate_is_named() -> None:
    learner = ShallowLearner("svm_hog_lbp", SVM, ("a", "b"), 0)
    with pytest.raises(
        UserError, match=r"3 train images or more of each class; too few of: b \(2\)"
    ):
        learner.prepare(["a"] * 9 + ["b"] * 2)


# Prints by how many MiB the peak of memory rises above what the features themselves take.
MEASURE = """
import json, resource, sys
import torch
from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.shallow.learner import ShallowLearner
from eyevsai.models.shallow.settings import SvmSettings
dataset = load_dataset(DataSettings(data=sys.argv[1], cache_dir=sys.argv[2]))
learner = ShallowLearner("svm_hog_lbp", SvmSettings(image_size=64), dataset.classes, 0)
train = dataset.open(learner.preprocessing).train
peak = lambda who: resource.getrusage(who).ru_maxrss / 1024
before = peak(resource.RUSAGE_SELF)
features = learner.extract(train)
own = features.numel() * 4 / 2**20
rise = peak(resource.RUSAGE_SELF) - before - own
print(json.dumps([len(train), rise, peak(resource.RUSAGE_CHILDREN)]))
"""


def test_images_are_described_a_chunk_at_a_time(
    data: Callable[[int], Data], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    extract = Extractor.extract

    def note(extractor: Extractor, crops: torch.Tensor) -> torch.Tensor:
        sizes.append(len(crops))
        return extract(extractor, crops)

    monkeypatch.setattr(parallel, "CHUNK", 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 0)  # no worker processes
    source = data(32)
    learner = ShallowLearner("svm_hog_lbp", SVM, source.dataset.classes, 0)
    whole = learner.extract(replace(source.train, cache=None))
    monkeypatch.setattr(Extractor, "extract", note)
    assert torch.equal(learner.extract(replace(source.train, cache=None)), whole)
    assert max(sizes) <= 4
    assert sum(sizes) == len(source.train) > 4


@pytest.mark.slow
def test_extraction_takes_no_more_memory_for_more_images(tmp_path: Path) -> None:
    peaks = []
    for count in (120, 1200):
        folder = write_images(tmp_path / str(count), {"a": count, "b": count})
        command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "cache")]
        env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2"}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    (few, own_few, workers_few), (many, own_many, workers_many) = peaks
    assert many > 9 * few
    assert own_many < own_few + 24
    assert workers_many < workers_few + 24
