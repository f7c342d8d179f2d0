"""The jobs that lists of models and datasets stand for, and their fingerprints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eyevsai.cli.train import train_all_settings
from eyevsai.core.errors import UserError
from eyevsai.executors.settings import TrainAllSettings
from eyevsai.models.factory import FAMILIES, get_family
from eyevsai.store.backend import open_store
from eyevsai.workflows.sweep.grid import fingerprint_jobs
from eyevsai.workflows.sweep.settings import SweepJob, compose_jobs, compose_train_all
from tests.conftest import write_images


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("pets", "instruments"):
        write_images(tmp_path / "data" / name, {"one": 8, "two": 8})
    monkeypatch.setenv("EYEVSAI_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def compose(datasets: str | None = None, models: str | None = None, **given: Any) -> list[SweepJob]:
    return compose_jobs(TrainAllSettings(datasets=datasets, models=models), given)


def test_a_grid_is_models_times_variations_times_datasets(root: Path) -> None:
    found = [str(job.name) for job in compose("pets, instruments", "deep_v1,shallow/rf_hog_lbp")]
    assert found == [
        f"{dataset}-{model}"
        for dataset in ("pets", "instruments")
        for model in ("deep_v1-standard", "deep_v1-residual", "shallow-rf_hog_lbp")
    ]


def test_one_dataset_may_be_given_another_name(root: Path) -> None:
    (job,) = compose("pets", "deep_v1/standard", dataset_name="cats")
    assert (str(job.name), job.config.data.dataset) == ("cats-deep_v1-standard", "pets")
    with pytest.raises(
        UserError, match="--dataset-name cats cannot name 2 datasets: instruments, pets"
    ):
        compose("instruments,pets", "deep_v1/standard", dataset_name="cats")


def test_without_names_it_is_all_of_them(root: Path) -> None:
    assert len(compose()) == 2 * sum(len(get_family(family).variations) for family in FAMILIES)


def test_without_folders_there_are_the_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EYEVSAI_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    assert [job.name.dataset for job in compose(models="deep_v1/standard")] == ["digits"]


def test_a_given_data_dir_without_datasets_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EYEVSAI_DATA", str(tmp_path))
    with pytest.raises(UserError, match=f"--data-dir {tmp_path} has no datasets"):
        compose(models="deep_v1/standard")


def test_what_is_named_twice_is_there_once(root: Path) -> None:
    assert len(compose("pets,pets", "deep_v1,deep_v1/residual")) == 2


def test_each_model_takes_the_settings_that_it_has(root: Path) -> None:
    found = {
        job.name.model: job
        for job in compose("pets", "deep_v1/standard,shallow/svm_hog_lbp", epochs=3, C=5.0)
    }
    assert found["deep_v1"].config.model.settings.epochs == 3  # type: ignore[attr-defined]
    assert found["shallow"].config.model.settings.C == 5.0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": "deep_v9"}, "Did you mean 'deep_v2'"),
        ({"models": "deep_v1/residuals"}, "Did you mean 'deep_v1/residual'"),
        ({"models": "deep_v1/svm_hog_lbp"}, "Did you mean 'shallow/svm_hog_lbp'"),
        ({"datasets": "pet"}, "Did you mean 'pets'"),
        ({"datasets": " , "}, "contains no dataset"),
        ({"models": ","}, "contains no model"),
        ({"models": "shallow", "epochs": 3}, "--epochs is not a setting of any chosen model"),
        ({"models": "deep_v1", "epochs": 0}, "--epochs 0 is not allowed"),
        ({"export": "onxn"}, "Did you mean 'onnx'"),
        ({"executor": "cloud"}, "--executor 'cloud' is not allowed"),
        ({"ray_address": "auto"}, "add --executor ray"),
        ({"gpus_per_job": 1.0}, "add --executor ray"),
        ({"run_tuning": True, "tuned": "never"}, "--tuned cannot be combined with --run-tuning"),
    ],
)
def test_a_wrong_line_is_refused(root: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose_train_all(given)


def test_folders_whose_models_would_have_one_name_are_refused(root: Path) -> None:
    for name in ("my pets", "my?pets"):
        write_images(root / name, {"one": 8, "two": 8})
    with pytest.raises(UserError, match="would share the name my_pets-deep_v1-standard"):
        compose("my pets,my?pets", "deep_v1/standard")


def test_a_job_fingerprint_depends_on_settings_and_data_but_not_on_folders(
    root: Path, workplace: Path
) -> None:
    def fingerprint(trials: int = 0, **given: Any) -> str:
        (found,) = fingerprint_jobs(
            compose("pets", "deep_v1/standard", **given), trials, open_store()
        ).values()
        return found.digest

    first = fingerprint()
    # there is no study
    assert fingerprint(state_dir="/elsewhere", checkpoint_every_s=1.0, tuned="never") == first
    assert len({first, fingerprint(epochs=3), fingerprint(seed=1), fingerprint(trials=5)}) == 4
    write_images(root / "pets", {"one": 1}, start=100)
    assert fingerprint() != first


def test_no_flag_of_the_command_means_two_things() -> None:
    names = [setting.name for setting in train_all_settings()]
    assert len(names) == len(set(names))
    assert {"datasets", "executor", "epochs", "C", "data_dir", "state_dir"} <= set(names)
    assert not {"model", "variation", "dataset", "data", "resume"} & set(names)
