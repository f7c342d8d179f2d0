from __future__ import annotations

import json

import pytest
import torch

from eyevsai.config import (
    ResumeSettings,
    TunedSettings,
    compose_train,
    select_parameters,
    train_settings,
)
from eyevsai.core.accelerator import has_cuda
from eyevsai.core.call_settings import CallSettings
from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice, Range, list_settings
from eyevsai.models.factory import FAMILIES, get_family

ALL = [(family, name) for family in FAMILIES for name in get_family(family).variations]


def test_given_goes_before_preset_before_family() -> None:
    assert compose_train({}).model.settings.image_size == 32
    assert compose_train({"image_size": 48}).model.settings.image_size == 48
    assert compose_train({"dataset": "pets"}).model.settings.image_size == 96
    assert compose_train({"dataset": "pets", "preset": "gpu"}).model.settings.image_size == 128
    assert compose_train({"preset": "gpu"}).model.settings.image_size == 32
    assert compose_train({"preset": "gpu", "batch_size": 32}).model.settings.batch_size == 32


def test_a_preset_belongs_to_the_dataset_and_not_to_a_folder() -> None:
    assert compose_train({"data": "somewhere"}).model.settings.image_size == 96


def test_environment_goes_before_default_and_after_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EYEVSAI_DATA", "/photos")
    assert compose_train({}).data.data_dir == "/photos"
    assert compose_train({"data_dir": "/mine"}).data.data_dir == "/mine"


def test_the_flat_configuration_is_complete_and_plain() -> None:
    flat = compose_train({}).flat()
    # where a run's settings come from, and how a call goes on, are no settings of the run
    parts = (ResumeSettings, TunedSettings, CallSettings)
    call = {setting.name for part in parts for setting in list_settings(part)}
    assert set(flat) == {setting.name for setting in train_settings("deep_v1", "standard")} - call
    assert json.loads(json.dumps(flat)) == flat


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "deepv1"}, "Did you mean 'deep_v1'"),
        ({"variation": "residul"}, "Did you mean 'residual'"),
        ({"epoch": 3}, "Did you mean --epochs"),
        ({"xyzzy": 3}, "eyevsai train --model deep_v1 --help"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_train(given)


@pytest.mark.parametrize(
    "given",
    [
        {"model": "deep_v1/residual"},
        {"model": "deep_v1/residual", "variation": "residual"},
    ],
    ids=["in the model", "in both"],
)
def test_a_variation_may_be_given_in_the_model(given: dict[str, object]) -> None:
    config = compose_train({**given, "width": 8})
    expected = compose_train({"model": "deep_v1", "variation": "residual", "width": 8})
    assert config.model == expected.model
    assert config.flat() == expected.flat()
    assert (config.flat()["model"], config.flat()["variation"]) == ("deep_v1", "residual")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"model": "deep_v1/residual", "variation": "standard"},
            "--model deep_v1/residual contradicts --variation standard",
        ),
        ({"model": "deep_v2/"}, "--model deep_v2/ lacks a family or a variation"),
        ({"model": "/hybrid"}, "--model /hybrid lacks a family or a variation"),
        ({"model": "deep_v1/residul"}, "Did you mean 'residual'"),
        ({"model": "deep_v1/vgg16"}, "'vgg16' is a variation of transfer.* --model transfer/vgg16"),
    ],
    ids=["contradiction", "no variation", "no family", "misspelt", "another family"],
)
def test_a_wrong_variation_in_the_model_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_train(given)


@pytest.mark.parametrize(("family", "variation"), ALL)
def test_names_are_unique_and_search_stays_inside_what_is_allowed(
    family: str, variation: str
) -> None:
    settings = train_settings(family, variation)
    assert len({setting.name for setting in settings}) == len(settings)
    for setting in settings:
        if isinstance(setting.search, Choice):
            ends = list(setting.search.options)
        elif isinstance(setting.search, Range):
            ends = [setting.search.low, setting.search.high]
        else:
            continue
        for value in ends:
            setting.check(value)


@pytest.mark.parametrize(("family", "variation"), ALL)
def test_what_mlproject_declares_is_never_tuned(family: str, variation: str) -> None:
    declared = {setting.name for setting in train_settings(family, variation) if setting.parameter}
    assert declared == {"model", "dataset", "data", "seed", "config"}
    own = list_settings(get_family(family).variations[variation].settings)
    assert not any(setting.parameter for setting in own)


def test_a_flag_of_another_family_names_that_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "other", "tests.unit.other_family")
    with pytest.raises(
        UserError,
        match=r"--petals is a setting of other \(dense\), not of deep_v1\. Use --model other",
    ):
        compose_train({"petals": 12})
    with pytest.raises(
        UserError, match=r"is a variation of other, not of deep_v1\. Use --model other/dense"
    ):
        compose_train({"variation": "dense"})
    assert compose_train({"model": "other", "petals": 12}).flat()["petals"] == 12


def test_help_without_a_model_shows_what_the_default_one_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(FAMILIES, "other", "tests.unit.other_family")
    shared = {setting.name for setting in train_settings(None, None)}
    assert {"model", "dataset", "lr", "epochs", "flip", "mixup"} <= shared
    assert shared <= {setting.name for setting in train_settings("deep_v1", None)}
    assert not {"petals", "width", "features"} & shared


@pytest.mark.parametrize(
    ("values", "cuda", "preset"),
    [
        ({}, True, "gpu"),
        ({}, False, "cpu"),
        ({"preset": "cpu"}, True, "cpu"),
        ({"preset": "gpu"}, False, "gpu"),
        ({"device": "cpu"}, True, "cpu"),
        ({"device": "cuda"}, True, "gpu"),
        ({"model": "shallow"}, True, "cpu"),
    ],
)
def test_auto_is_the_gpu_preset_where_cuda_is_found(
    values: dict[str, str], cuda: bool, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eyevsai.config.has_cuda", lambda: cuda)
    composed = compose_train(values)
    assert composed.model.preset == composed.flat()["preset"] == preset


def test_machine_without_a_driver_has_no_cuda() -> None:
    assert has_cuda() == torch.cuda.is_available()


def test_a_preset_that_a_model_has_not_is_told() -> None:
    with pytest.raises(UserError, match="--preset gpu is not available for shallow/svm_hog_lbp"):
        compose_train({"model": "shallow", "preset": "gpu"})


def test_parameters_are_the_settings_that_act() -> None:
    values = {"data": "/home/ada/pets", "cache_dir": "/cache", "threads": 3}
    parameters = compose_train(values).parameters("pets")
    assert len(parameters) <= 30
    assert parameters["dataset"] == "pets"
    assert not {"data", "cache_dir", "threads", "decay_rate", "clip_grad"} & parameters.keys()
    assert parameters["momentum"] == 0.9  # of muon
    changed = {"optimizer": "adamw", "schedule": "plateau", "clip_grad": 2.0, "minutes": 3.0}
    other = compose_train({**values, **changed}).parameters("pets")
    assert other["clip_grad"] == 2.0  # unlike the default
    differing = {name for name in {*parameters, *other} if parameters.get(name) != other.get(name)}
    assert differing == {*changed, "momentum", "decay_rate", "plateau_patience"}
    forest = compose_train({"model": "shallow", "reduction": "none"}).parameters("pets")
    assert not {"components", "min_lr_ratio"} & forest.keys()


def test_parameters_of_settings_that_predate_others_are_selected() -> None:
    resolved = compose_train({}).model.resolved
    assert select_parameters({"lr": 0.1, "removed": 1}, resolved) == {"lr": 0.1}
