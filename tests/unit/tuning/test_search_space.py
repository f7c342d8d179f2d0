"""Where a study looks: as declared, as a file says, without what was given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Range, Settings, list_settings
from eyevsai.features.settings import FeatureSettings
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.models.factory import FAMILIES, get_family
from eyevsai.models.shallow.settings import SvmSettings
from eyevsai.models.transfer.settings import TransferSettings
from eyevsai.tuning.search_space import SearchSpace, build_search_space

ALL = [(family, name) for family in FAMILIES for name in get_family(family).variations]


def draw(space: SearchSpace, defaults: Settings, count: int = 40) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space.suggest(study.ask(), defaults) for _ in range(count)]


def from_file(
    tmp_path: Path, text: str, declared: type[Settings] = DeepV1Settings, **given: Any
) -> SearchSpace:
    path = tmp_path / "space.toml"
    path.write_text(text)
    return build_search_space(declared, given, str(path))


@pytest.mark.parametrize(("family", "variation"), ALL)
def test_what_is_drawn_is_allowed_and_all_of_it_is_looked_at(family: str, variation: str) -> None:
    declared = get_family(family).variations[variation].settings
    space = build_search_space(declared, {}, None)
    assert set(space.dimensions) == {
        each.name for each in list_settings(declared) if each.search is not None
    }
    drawn = draw(space, declared())
    for values in drawn:
        replace(declared(), **values)
    for name in space.dimensions:
        assert len({values[name] for values in drawn if name in values}) > 1, name
        assert space.dimensions[name].points


def test_a_setting_that_does_not_matter_is_left_alone() -> None:
    drawn = draw(build_search_space(SvmSettings, {}, None), SvmSettings())
    assert {("degree" in values, values["kernel"] == "poly") for values in drawn} == {
        (True, True),
        (False, False),
    }
    assert {"components" in values for values in drawn} == {True, False}
    fixed = draw(
        build_search_space(SvmSettings, {"kernel": "poly", "reduction": "none"}, None),
        SvmSettings(),
    )
    assert all("degree" in values and "components" not in values for values in fixed)


def test_what_was_given_is_never_drawn() -> None:
    space = build_search_space(DeepV1Settings, {"lr": 0.5, "seed": 3}, None)
    assert space.fixed == {"lr": 0.5}
    assert all(values["lr"] == 0.5 for values in draw(space, DeepV1Settings()))


def test_what_computes_is_no_part_of_a_study() -> None:
    assert build_search_space(SvmSettings, {"threads": 1, "C": 2.0}, None).fixed == {"C": 2.0}


def test_features_are_searched_on_wish_only(tmp_path: Path) -> None:
    assert not {each.name for each in list_settings(FeatureSettings)} & set(
        build_search_space(SvmSettings, {}, None).dimensions
    )
    asked = from_file(
        tmp_path, "features = ['hog', 'hog,lbp']\nhog_cells = {low = 4, high = 8}\n", SvmSettings
    )
    assert {values["features"] for values in draw(asked, SvmSettings())} == {"hog", "hog,lbp"}
    transfer = build_search_space(TransferSettings, {}, None).dimensions
    assert not {"crop_scale", "rotation", "random_erasing", "mixup", "cutmix"} & set(transfer)
    assert {"lr", "dropout", "fine_tune_lr"} <= set(transfer)


def test_a_file_narrows_and_fixes(tmp_path: Path) -> None:
    text = (
        "lr = {low = 1e-4, high = 1e-3}\nbatch_size = [16, 32]\ndropout = 0\nhead_units = {low "
        "= 8, high = 64}\n"
    )
    space = from_file(tmp_path, text, weight_decay=0.5)
    assert space.dimensions["lr"].space == Range(1e-4, 1e-3, log=True)  # as it is declared
    assert space.fixed == {"dropout": 0.0, "weight_decay": 0.5}
    drawn = draw(space, DeepV1Settings())
    assert all(1e-4 <= values["lr"] <= 1e-3 for values in drawn)
    assert {values["batch_size"] for values in drawn} == {16, 32}
    assert all(
        isinstance(values["head_units"], int) and 8 <= values["head_units"] <= 64
        for values in drawn
    )


@pytest.mark.parametrize(("family", "variation"), ALL)
def test_defaults_are_a_point_of_the_space(family: str, variation: str) -> None:
    defaults = get_family(family).variations[variation].settings()
    near = build_search_space(type(defaults), {}, None).nearest(defaults)
    assert near
    assert near == {name: getattr(defaults, name) for name in near}
    assert "degree" not in near  # which matters beside a kernel that is not the default


@pytest.mark.parametrize(
    ("text", "setting", "nearest"),
    [
        ("lr = {low = 1e-2, high = 1e-1}", "lr", 1e-2),
        ("lr = [1e-6, 3e-2]", "lr", 3e-2),  # by factors
        ("dropout = [0.0, 0.45]", "dropout", 0.0),
        ("width = [4, 8]", "width", 8),
        ("head_units = {low = 8, high = 64}", "head_units", 8),
        ("optimizer = ['sgd', 'adam']", "optimizer", "adam"),
        ("auto_augment = ['trivial', 'rand']", "auto_augment", "rand"),
    ],
)
def test_a_default_outside_the_space_is_moved_into_it(
    tmp_path: Path, text: str, setting: str, nearest: Any
) -> None:
    space = from_file(tmp_path, text, batch_size=16)
    near = space.nearest(DeepV1Settings(batch_size=16))
    assert (near[setting], type(near[setting])) == (nearest, type(nearest))
    assert "batch_size" not in near
    others = {name: value for name, value in near.items() if name != setting}
    assert others == {name: getattr(DeepV1Settings(), name) for name in others}


def test_what_the_nearest_value_calls_for_is_there_too(tmp_path: Path) -> None:
    space = from_file(
        tmp_path, "kernel = ['poly']\ngamma = {low = 1e-4, high = 1e-1}\n", SvmSettings
    )
    near = space.nearest(SvmSettings())
    assert (near["kernel"], near["degree"]) == ("poly", 3)
    assert 1e-4 < near["gamma"] < 1e-1  # none by default


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning = 1", "learning is not a setting of this model"),
        ("drop_out = 0.1", "Did you mean dropout"),
        ("lr = {low = 1e-2, high = 1e-3}", "the range from low = 0.01 to high = 0.001 is empty"),
        ("lr = {low = 0, high = 1}", "not allowed"),
        ("dropout = {low = 0.0, high = 0.5, log = true}", "must start above 0"),
        ("dropout = {low = 0.1, high = 0.5, log = 'no'}", "log must be true or false, not 'no'"),
        ("lr = {from = 1}", "lr has a table with from. It takes a value, a list"),
        ("batch_size = []", "has no values"),
        ("batch_size = ['many']", "must be a whole number"),
        ("lr = 7", "not allowed"),
        ("lr =", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_file(tmp_path, text)
    with pytest.raises(UserError, match=r"--space .*nowhere\.toml cannot be read: No such file"):
        build_search_space(DeepV1Settings, {}, str(tmp_path / "nowhere.toml"))


def test_a_study_of_nothing_is_refused() -> None:
    given = {each.name: each.default for each in list_settings(DeepV1Settings)}
    with pytest.raises(UserError, match="nothing to tune"):
        build_search_space(DeepV1Settings, given, None)
