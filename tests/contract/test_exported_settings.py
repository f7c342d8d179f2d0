"""Export of models with every setting that changes the graph, over all families, at 32 px.

A new setting belongs into `GRAPH`, with values other than its default, or into `NOT_GRAPH`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eyevsai.core.settings import list_settings
from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.formats.base import ExportSource
from eyevsai.formats.factory import FORMATS, get_format
from eyevsai.models.factory import FAMILIES, build, get_family
from eyevsai.models.learner import Learner, NetworkModel
from tests.conftest import draw_image
from tests.contract.test_learners import tiny

NETWORK = {
    "tta_flip": (True,),
    "channels_last": (False,),
    "image_size": (33, 64),
    "crop_margin": (1.0, 1.5),
}
# settings that change the graph of a family, with values; others are set to make them effective
GRAPH: dict[str, dict[str, tuple[Any, ...]]] = {
    "deep_v1": NETWORK
    | {
        "width": (4,),
        "convolutions": (1, 3),
        "pooling": ("early", "late"),
        "dropout": (0.0,),
        "dropout_warmup_epochs": (1.0,),
        "head_units": (0,),
    },
    "deep_v2": NETWORK
    | {
        "width": (4,),
        "layers": ("1,2,1,1", "2,1,1"),
        "use_se": (True, False),
        "use_cbam": (True, False),
        "attention": ("none", "self"),
        "attention_reduction": (1,),
        "attention_heads": (2,),
        "separable": (True, False),
        "downsampling": ("full",),
        "stochastic_depth": (0.0, 0.5),
        "dropout": (0.0,),
        "dropout_warmup_epochs": (1.0,),
        "gradient_checkpointing": (True,),
        "memory_efficient": (True,),
        "growth_rate": (2,),
    },
    "shallow": {
        "image_size": (33, 64),
        "features": ("hog", "lbp", "color", "hog_words", "color_words", "hog,lbp,color"),
        "hog_cells": (2,),
        "hog_orientations": (2,),
        "hog_color": (False,),
        "lbp_neighbours": ("16", "both"),
        "color_hues": (1,),
        "color_tones": (1,),
        "pyramid_levels": (1,),
        "square_root": (False,),
        "words": (8,),
        "word_cells": (4, 9),
        "standardize": (False,),
        "reduction": ("none", "pca", "svd"),
        "components": (2,),
        "discriminant_shrinkage": (None,),
        "kernel": ("linear", "poly"),
        "gamma": (1e-4,),
        "degree": (1, 4),
        "n_estimators": (1,),
        "max_depth": (None, 1),
        "min_samples_leaf": (1000,),
    },
    "transfer": NETWORK
    | {
        "mean": ("0.1,0.2,0.3",),
        "std": ("0.1,0.2,0.3",),
        "interpolation": ("bilinear", "bicubic"),
        "dense_units": ("none", "16,8"),
        "dropout": (0.0,),
        "dropout_warmup_epochs": (1.0,),
    },
}
REQUIRED = {"attention_heads": {"attention": "self"}, "degree": {"kernel": "poly"}}
# settings of the training, which change at most the weights
NOT_GRAPH = """
    class_weights batch_size grad_accum_steps optimizer lr momentum weight_decay schedule
    warmup_epochs min_lr_ratio decay_epochs decay_rate plateau_patience label_smoothing clip_grad
    patience crop_scale crop_ratio flip rotation brightness contrast saturation random_erasing
    auto_augment mixup cutmix mixup_prob ema_decay threads device precision memory_efficient devices
    epochs C freeze_epochs fine_tune_epochs unfreeze_stages fine_tune_lr layer_decay feature_views
    weights minutes head_solver initial_scale balance unfreezing wise_ft
    whitening translate crop_share noise
"""
VARIATIONS = [
    (family, variation)
    for family in FAMILIES
    for variation in get_family(family).variations
    if family != "transfer" or variation == "mobilenet_v2"  # only the settings of the head differ
]
BATCH_SIZES = (1, 3, 8)
Build = Callable[..., Learner]


def draw(count: int, height: int, width: int) -> np.ndarray:
    """Return images N,H,W,3 like those of the dataset; of several, the last is black."""
    images = np.stack([draw_image(n % 3, count + n, width, height) for n in range(count)])
    images[1:][-1:] = 0
    return images


def names_of(family: str, variation: str) -> set[str]:
    declared = get_family(family).variations[variation].settings
    return {setting.name for setting in list_settings(declared)}


def cases() -> list[Any]:
    """Return a case for each value of each setting of each variation, all but one marked slow."""
    return [
        pytest.param(
            family,
            variation,
            {**REQUIRED.get(name, {}), name: value},
            id=f"{family}/{variation}-{name}={value}",
            marks=[
                pytest.mark.xdist_group(f"{family}/{variation}"),
                *([] if (variation, name) == ("standard", "tta_flip") else [pytest.mark.slow]),
            ],
        )
        for family, variation in VARIATIONS
        for name, values in GRAPH[family].items()
        if name in names_of(family, variation)
        for value in values
        if name != "layers" or value.count(",") == layers_of(family, variation).count(",")
    ]


def layers_of(family: str, variation: str) -> str:
    return str(tiny(family, variation).layers)  # type: ignore[attr-defined]


# one case of several settings together for each family: the quick selection
TOGETHER = {
    "deep_v1": ("residual", {"tta_flip": True, "convolutions": 3, "head_units": 0}),
    "deep_v2": (
        "hybrid",
        {"tta_flip": True, "layers": "2,1,1", "separable": False, "gradient_checkpointing": True},
    ),
    "shallow": ("svm_hog_lbp", {"kernel": "poly", "reduction": "svd", "hog_color": False}),
    "transfer": (
        "mobilenet_v2",
        {"tta_flip": True, "dense_units": "16,8", "interpolation": "bicubic"},
    ),
}


def build_learner(
    source: Path, cache: Path, family: str, variation: str, changes: dict[str, Any]
) -> Learner:
    """Return a learner whose predictions differ from image to image."""
    dataset = load_dataset(DataSettings(data=str(source), cache_dir=str(cache)))
    settings = replace(tiny(family, variation), **changes)
    learner = build(family, variation, settings, dataset.classes, seed=0)
    learner.prepare(dataset.labels_of("train"))
    if not isinstance(learner, NetworkModel):
        data = dataset.open(learner.preprocessing)
        learner.fit(data.train, data.valid, lambda epoch, row: None)
        return learner
    for module in learner.network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None  # plain averages: with the initial ones, the signal vanishes
    side = learner.preprocessing.short_side_px
    crops = learner.preprocessing.crop(torch.from_numpy(draw(32, side, side)))
    learner.network.train()(learner.preprocessing.normalize(crops))
    learner.network.eval()
    learner.temperature = 4.0  # rounding errors of 50 random layers exceed the tolerance otherwise
    return learner


@pytest.fixture
def make(stripes: Path, cache_dir: Path) -> Build:
    return partial(build_learner, stripes, cache_dir)


def squares_of(learner: Learner) -> Callable[[], np.ndarray]:
    side = learner.preprocessing.short_side_px
    return lambda: draw(16, side, side)


def check_export(source: ExportSource, name: str, folder: Path) -> None:
    """Compare an export with its learner, in several batch sizes, resized and not."""
    learner, format_ = source.learner, get_format(name)
    side = learner.preprocessing.short_side_px
    format_.write(source, folder)
    runtime = format_.open_written(folder)
    is_exact, spread = format_.max_accuracy_loss is None, 0.0
    for count in BATCH_SIZES:
        for height, width, atol in ((side, side, 1e-5), (side + 5, side + 20, 1e-3)):
            images = draw(count, height, width)
            expected = learner.predict_proba(images)
            spread = max(spread, float(np.ptp(expected, axis=0).max()))
            np.testing.assert_allclose(
                runtime.predict_proba(images), expected, atol=atol if is_exact else 0.1
            )
    # otherwise equality proves nothing; a tree of one leaf does not look at images
    assert spread > 1e-3 or getattr(learner.settings, "min_samples_leaf", 1) == 1000


def test_every_setting_is_known_to_change_the_graph_or_not() -> None:
    for family in FAMILIES:
        names = set().union(*(names_of(family, each) for each in get_family(family).variations))
        assert GRAPH[family].keys() <= names, family
        assert names - GRAPH[family].keys() - set(NOT_GRAPH.split()) == set(), family


@pytest.mark.parametrize(("family", "variation", "changes"), cases())
def test_a_model_with_any_setting_is_exported(
    make: Build, tmp_path: Path, family: str, variation: str, changes: dict[str, Any]
) -> None:
    learner = make(family, variation, changes)
    check_export(ExportSource(learner, "0" * 64, None, squares_of(learner)), "onnx", tmp_path)


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=pytest.mark.xdist_group(family)) for family in FAMILIES],
)
def test_a_model_with_several_settings_is_exported(
    make: Build, tmp_path: Path, family: str
) -> None:
    learner = make(family, *TOGETHER[family])
    check_export(ExportSource(learner, "0" * 64, None, squares_of(learner)), "onnx", tmp_path)


@pytest.fixture(scope="module")
def flipping(stripes: Path, cache_dir: Path) -> ExportSource:
    """Return the source of a network with flip averaging, traced once for all formats."""
    learner = build_learner(stripes, cache_dir, "deep_v1", "standard", {"tta_flip": True})
    return ExportSource(learner, "0" * 64, None, squares_of(learner))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name == "tensorrt" else [])
        for name in FORMATS
        if name != "onnx"  # tested above
    ],
)
def test_a_model_with_flip_averaging_is_exported_in_every_format(
    flipping: ExportSource, tmp_path: Path, name: str
) -> None:
    check_export(flipping, name, tmp_path)
