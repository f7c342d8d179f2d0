"""Stored settings of runs of earlier versions, which lacked some settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eyevsai.config import compose_train, explicit_settings
from eyevsai.models.factory import FAMILIES, complete_settings, get_family
from eyevsai.store.run_dir import CONFIG, RunDir
from eyevsai.workflows.train.resume import restore_config

MODELS = [f"{family}/{each}" for family in FAMILIES for each in get_family(family).variations]
CROPPED = {
    "whitening": False,
    "initial_scale": 1.0,
    "crop_share": 1.0,
    "translate": 0.0,
    "noise": 0.0,
}
FORMER: dict[str, dict[str, Any]] = {
    "deep_v1": {"pooling": "late", **CROPPED},
    "deep_v2/hybrid": {"downsampling": "full", **CROPPED},
    "transfer/resnet50": {"head_solver": "sgd", "unfreezing": "gradual", "wise_ft": False},
    "shallow/rf_hog_lbp": {"balance": False, "discriminant_shrinkage": None},
}


@pytest.mark.parametrize("model", FORMER)
def test_missing_settings_have_the_value_of_their_time(model: str) -> None:
    family, _, variation = model.partition("/")
    stored: dict[str, Any] = {"model": family, "variation": variation or None, "seed": 3}
    former = FORMER[model] | {"split_seed": 3}
    assert complete_settings(stored) == {**former, **stored}
    current = dict.fromkeys(former, "kept")
    assert complete_settings(stored | current) == stored | current


@pytest.mark.parametrize("model", [None, "all", "deep_v1/unknown"])
def test_settings_without_a_model_are_renamed_only(model: str | None) -> None:
    stored = {"model": model, "accumulation": 2}
    assert complete_settings(stored) == {"model": model, "grad_accum_steps": 2}


@pytest.mark.parametrize("model", MODELS)
def test_stored_settings_are_composed_to_the_same_settings(model: str) -> None:
    """None is a value of settings whose default is a number, as the depth of trees."""
    changed = {"max_depth": None, "discriminant_shrinkage": None} if "rf_" in model else {}
    stored = compose_train({"model": model, **changed}).flat()
    assert compose_train(explicit_settings(stored)).flat() == stored


def test_a_resumed_run_of_an_earlier_version_keeps_its_network(tmp_path: Path) -> None:
    folder = RunDir(tmp_path, "0" * 32)
    folder.path.mkdir(parents=True)
    stored = compose_train({"model": "deep_v1", "epochs": 3}).flat()
    former = {name: value for name, value in stored.items() if name not in FORMER["deep_v1"]}
    folder.write(CONFIG, json.loads(json.dumps(former)))
    settings = restore_config(compose_train({"resume": "0" * 32}), folder).model.settings
    assert {name: getattr(settings, name) for name in FORMER["deep_v1"]} == FORMER["deep_v1"]
