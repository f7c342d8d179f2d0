"""`--config`: settings from a file or a run. `--experiment`: the experiment of a call."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import eyevsai as package
from eyevsai.core.errors import UserError
from eyevsai.store.run_dir import CONFIG
from eyevsai.store.tags import SOURCE_RUN_ID, STUB, WEIGHTS_SHA256
from eyevsai.store.uris import find_store
from eyevsai.tracking.search import read_json
from tests.conftest import TINY_NETWORK, Eyevsai, experiments

TINY_YAML = "dataset: stripes\nepochs: 1\nwidth: 4\nimage-size: 32\nbatch_size: 8\nthreads: 1\n"
# settings of a file, and parts of the error of `train`: source, setting, value or fix
MISTAKES = {
    "lr: abc": ("settings.yaml, lr: --lr must be a number, not 'abc'.",),
    "lr: 50": ("settings.yaml, lr: --lr 50.0 is not allowed",),
    "lr:": ("settings.yaml, lr: --lr must be a number, not None",),
    "flip: maybe": ("settings.yaml, flip:", "true or false, not 'maybe'"),
    "data: ''": ("settings.yaml, data: --data is empty",),
    "widht: 3": ("settings.yaml, widht:", "Did you mean --width?"),
    "learning_rate: 1": ("settings.yaml, learning_rate:", "Use --lr."),
    "n_estimators: 3": ("settings.yaml, n_estimators:", "a setting of shallow"),
    "n_trials: 3": ("settings.yaml, n_trials: There is no option --n-trials of train", "of tune"),
    "epochs: [1]": ("settings.yaml, epochs: --epochs takes one value, not a list",),
    "model: deep_v9": ("settings.yaml, model: There is no model 'deep_v9'",),
    "variation: resnet": ("settings.yaml, variation:", "of deep_v2, not of deep_v1"),
    "model: deep_v2/resnet\nvariation: hybrid": (
        "settings.yaml, variation: --model deep_v2/resnet contradicts --variation hybrid",
    ),
    "config: other.yaml": ("settings.yaml, config:", "Remove the line"),
    "lr: 1\nlr: 2": ("settings.yaml sets lr twice",),
    "image-size: 32\nimage_size: 64": ("settings.yaml sets image_size twice",),
    "train:\n  lr: 1": ("train in settings.yaml has nested values",),
    "lr: [1": ("settings.yaml cannot be read: its syntax is not valid in line",),
    "- lr": ("settings.yaml cannot be read: it has no lines with KEY: VALUE",),
}


@pytest.fixture
def workplace(workplace: Path, stripes: Path) -> Path:
    (workplace / "data").mkdir()
    (workplace / "data" / "stripes").symlink_to(stripes)
    return workplace


@pytest.fixture
def version(eyevsai: Eyevsai, workplace: Path) -> SimpleNamespace:
    """A run with settings of its own, a seed of its own, and its version."""
    return train(eyevsai, *TINY_NETWORK, "--batch-size", "64", "--seed", "5", "--lr", "0.002")


def train(eyevsai: Eyevsai, *options: str, **env: str) -> SimpleNamespace:
    name, number = (
        eyevsai("train", *options, **env).stdout.split()[0].removeprefix("models:/").split("/")
    )
    version = MlflowClient().get_model_version(name, number)
    return SimpleNamespace(run_id=version.run_id, digest=version.tags[WEIGHTS_SHA256], name=name)


def config_of(run_id: str, folder: Path) -> dict[str, object]:
    path = MlflowClient().download_artifacts(run_id, "config.json", str(folder))
    settings: dict[str, object] = json.loads(Path(path).read_text())
    return settings


def active_runs(experiment: str | None = None) -> list[Run]:
    """Return the runs of an experiment, of all by default."""
    return list(MlflowClient().search_runs([experiment] if experiment else experiments()))


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: text.replace("\n", "; "))
def test_mistake_in_a_file_names_file_setting_and_value(
    eyevsai: Eyevsai, workplace: Path, text: str
) -> None:
    (workplace / "settings.yaml").write_text(text)
    error = eyevsai("train", "--config", "settings.yaml", code=2).stderr
    assert error.count("\n") == 1
    for part in MISTAKES[text]:
        assert part in error
    assert not active_runs()


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        ("tune", "resume: auto", "settings.yaml, resume: --resume is an option of train only"),
        ("tune", "n_trails: 3", "settings.yaml, n_trails: There is no option --n-trails. Did you"),
        ("train-all", "model: deep_v1", "settings.yaml, model: There is no option --model"),
        ("train-all", "modles: deep_v1", "Did you mean --models?"),
        ("train-all", "tuning_trials: many", "settings.yaml, tuning_trials: --tuning-trials must"),
    ],
)
def test_mistake_in_a_file_of_another_command_is_named(
    eyevsai: Eyevsai, workplace: Path, command: str, text: str, message: str
) -> None:
    (workplace / "settings.yaml").write_text(text)
    assert message in eyevsai(command, "--config", "settings.yaml", code=2).stderr


def test_unusable_source_is_named(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "settings.txt").write_text("lr: 1")
    (workplace / "latin.yaml").write_bytes(b"dataset: caf\xe9")
    for source, message in (
        ("none.yaml", "--config none.yaml cannot be read: No such file or directory"),
        ("settings.txt", "--config settings.txt has no known format"),
        ("latin.yaml", "--config latin.yaml cannot be read"),
        ("run:123", "There is no run '123'"),
    ):
        assert message in eyevsai("train", "--config", source, code=2).stderr


def test_options_win_over_the_file_and_the_file_over_defaults_and_variables(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    lines = "model: deep_v1\nseed: 1\nlr: 1e-3\nflip: no\nrun_name: 2026-11-28\ntuned: never\n"
    (workplace / "settings.yaml").write_text(TINY_YAML + lines + "state_dir: of_file\n")
    options = ("--config", "settings.yaml", "--seed", "9")
    run_id = train(eyevsai, *options, EYEVSAI_STATE=str(workplace / "of_variable")).run_id
    values = config_of(run_id, workplace)
    expected = {"seed": 9, "lr": 0.001, "flip": False, "run_name": "2026-11-28", "width": 4}
    assert expected.items() <= values.items()
    assert values["state_dir"] == "of_file"
    assert not (workplace / "of_variable").exists()


@pytest.mark.parametrize(
    ("text", "options", "model"),
    [
        ("model: deep_v2", (), ("deep_v2", "resnet")),
        ("model: deep_v2/hybrid", (), ("deep_v2", "hybrid")),
        ("model: deep_v2\nvariation: hybrid", ("--variation", "resnet"), ("deep_v2", "resnet")),
        ("model: deep_v2/hybrid", ("--variation", "resnet"), ("deep_v2", "resnet")),
        ("variation: hybrid", ("--model", "deep_v2/resnet"), ("deep_v2", "resnet")),
        ("model: deep_v1", ("--model", "shallow"), ("shallow", "svm_hog_lbp")),
    ],
)
def test_model_of_the_file_and_of_the_options_are_combined(
    workplace: Path, text: str, options: tuple[str, ...], model: tuple[str, str]
) -> None:
    from eyevsai import config
    from eyevsai.workflows.config_source import with_config

    (workplace / "settings.yaml").write_text(text)
    values = dict(zip((each[2:] for each in options[::2]), options[1::2], strict=True))
    values["config"] = "settings.yaml"
    composed = config.compose_train(with_config(values, "train", config.train_settings))
    assert (composed.model.family, composed.model.variation) == model


def test_variation_of_the_file_contradicts_an_option(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "settings.yaml").write_text("model: deep_v2\nvariation: resnet")
    error = eyevsai("train", "--config", "settings.yaml", "--model", "shallow", code=2).stderr
    assert "settings.yaml, variation: 'resnet' is a variation of deep_v2, not of shallow" in error
    assert "An option --variation replaces the value in settings.yaml." in error


def test_option_of_the_model_of_the_file_is_known(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "settings.toml").write_text('model = "deep_v2"\n')
    assert "--layers" in eyevsai("train", "--config", "settings.toml", "--help").stdout
    error = eyevsai("train", "--config=settings.toml", "--layers", "1,x", code=2).stderr
    assert "There is no option" not in error


def test_dataset_option_replaces_the_folder_of_the_file(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "settings.yaml").write_text(TINY_YAML + "data: missing\ntuned: never\n")
    assert "missing" in eyevsai("train", "--config", "settings.yaml", code=2).stderr
    trained = train(eyevsai, "--config", "settings.yaml", "--dataset", "stripes")
    assert trained.name == "stripes-deep_v1-standard"


def test_run_is_repeated_with_equal_weights(
    eyevsai: Eyevsai, workplace: Path, version: SimpleNamespace
) -> None:
    repeated = train(eyevsai, "--config", f"run:{version.run_id}")
    assert repeated.run_id != version.run_id
    assert repeated.digest == version.digest
    assert config_of(repeated.run_id, workplace) == config_of(version.run_id, workplace / "state")
    path = MlflowClient().download_artifacts(version.run_id, "config.json", str(workplace))
    assert train(eyevsai, "--config", path).digest == version.digest  # its file, as JSON
    assert train(eyevsai, "--config", f"run:{version.run_id}", "--seed", "6").digest != (
        version.digest
    )


def test_run_of_another_command_is_refused(
    eyevsai: Eyevsai, workplace: Path, version: SimpleNamespace
) -> None:
    source = f"run:{version.run_id}"
    for command in ("tune", "train-all"):
        error = eyevsai(command, "--config", source, code=2).stderr
        assert f"--config {source} cannot be used by {command}, because it is a run of train" in (
            error
        )
        assert f"Use: eyevsai train --config {source}" in error
    other = MlflowClient().create_run("0").info.run_id
    assert "no run of eyevsai" in eyevsai("train", "--config", f"run:{other}", code=2).stderr


def test_study_and_its_trial_are_repeated(eyevsai: Eyevsai, workplace: Path) -> None:
    (workplace / "study.yaml").write_text(TINY_YAML + "n_trials: 1\nsampler: random\nseed: 4\n")
    eyevsai("tune", "--config", "study.yaml")
    runs = {run.data.tags["eyevsai.job"]: run for run in active_runs()}
    eyevsai("tune", "--config", f"run:{runs['tune'].info.run_id}", "--study", "again")
    (again,) = MlflowClient().search_runs(
        experiments(), "tags.`eyevsai.job` = 'tune' and tags.study = 'again'"
    )
    first_id, again_id = runs["tune"].info.run_id, again.info.run_id
    before, after = (read_json(find_store(), run_id, CONFIG) for run_id in (first_id, again_id))
    assert before | {"study": "again"} == after
    assert runs["tune"].data.params.keys() == again.data.params.keys()
    assert (
        again.data.metrics["best_valid_accuracy"]
        == runs["tune"].data.metrics["best_valid_accuracy"]
    )
    assert runs["tune"].data.tags["config"] == "study.yaml"
    assert again.data.tags["config"] == f"run:{runs['tune'].info.run_id}"
    assert train(eyevsai, "--config", f"run:{runs['trial'].info.run_id}").name
    options = ("--config", "study.yaml", "--n-trials", "2", "--experiment", "other")
    error = eyevsai("tune", *options).stderr
    assert f"Run {runs['tune'].info.run_id} stays in the experiment stripes" in error


@pytest.mark.usefixtures("jobs_in_process")
def test_sweep_is_repeated(eyevsai: Eyevsai, workplace: Path) -> None:
    lines = "models: [deep_v1/standard]\ndatasets: stripes\nevaluate: false\noutput: pages\n"
    (workplace / "sweep.yaml").write_text(TINY_YAML.replace("dataset: stripes\n", "") + lines)
    first = json.loads(eyevsai("train-all", "--config", "sweep.yaml", "--json").stdout)
    again = json.loads(eyevsai("train-all", "--config", f"run:{first['run_id']}", "--json").stdout)
    assert (
        again["models"]
        == first["models"]
        == {"stripes-deep_v1-standard": "models:/stripes-deep_v1-standard/1"}
    )


def test_python_functions_take_a_source(workplace: Path) -> None:
    (workplace / "settings.yaml").write_text(TINY_YAML + "model: deep_v1\nseed: 2\n")
    before = dict(os.environ)
    trained = package.train(config=Path("settings.yaml"), tuned="never", experiment="python")
    assert dict(os.environ) == before
    run = MlflowClient().get_run(trained.run_id)
    assert run.data.params["seed"] == "2"
    assert MlflowClient().get_experiment(run.info.experiment_id).name == "python"
    (workplace / "settings.yaml").write_text("lr: abc")
    with pytest.raises(UserError, match=r"settings\.yaml, lr: --lr must be a number, not 'abc'"):
        package.train(config="settings.yaml")


def test_experiment_option_wins_over_the_variables(eyevsai: Eyevsai, workplace: Path) -> None:
    options = ("--dataset", "stripes", *TINY_NETWORK, "--tuned", "never", "--experiment", "chosen")
    variables = {"MLFLOW_EXPERIMENT_NAME": "other", "MLFLOW_EXPERIMENT_ID": "0"}
    run_id = train(eyevsai, *options, **variables).run_id
    eyevsai("evaluate", "--run", run_id, "--corruption-images", "0", "--experiment", "tests")
    client = MlflowClient()
    names = {each.name: each.experiment_id for each in client.search_experiments()}
    assert names.keys() == {"Default", "chosen", "tests"}
    assert [run.info.run_id for run in active_runs(names["chosen"])] == [run_id]
    assert len(active_runs(names["tests"])) == 1
    client.delete_experiment(names["chosen"])
    error = eyevsai("train", *options, code=2).stderr
    assert "which --experiment or MLFLOW_EXPERIMENT_NAME selects, was deleted" in error
    long = ("--experiment", "x" * 300)
    assert "300 characters. Use at most 256" in eyevsai("train", *long, code=2).stderr


def test_experiment_that_contradicts_the_run_of_mlflow_is_refused(
    entry_point: Eyevsai, workplace: Path
) -> None:
    error = entry_point("train", "-P", "experiment=other one", code=1).stderr
    assert "--experiment other one contradicts the run" in error
    assert "Use: mlflow run --experiment-name 'other one'" in error
    assert [each.name for each in MlflowClient().search_experiments()] == ["Default"]
    (run,) = active_runs()
    assert (run.info.run_name, run.info.status) == ("train", "FAILED")
    (workplace / "settings.yaml").write_text(TINY_YAML + "tuned: never\n")
    parameters = ("-P", "experiment=Default", "-P", "config=settings.yaml")
    entry_point("train", *parameters)  # the same one


def test_file_wins_over_the_defaults_of_mlproject(entry_point: Eyevsai, workplace: Path) -> None:
    (workplace / "settings.yaml").write_text(
        "model: shallow/rf_hog_lbp\nn_estimators: 5\nimage_size: 32\nseed: 3\ndataset: stripes\n"
    )
    entry_point("train", "-P", "config=settings.yaml")
    stub, run = sorted(active_runs(), key=lambda each: STUB not in each.data.tags)
    assert stub.data.tags[SOURCE_RUN_ID] == run.info.run_id
    assert stub.info.status == "FINISHED"
    params = run.data.params
    assert (params["model"], params["seed"], params["dataset"]) == ("shallow", "3", "stripes")
    assert run.data.tags["mlflow.project.entryPoint"] == "train"
    assert run.info.status == "FINISHED"


def test_parameter_wins_over_the_file_and_keeps_its_run(
    entry_point: Eyevsai, workplace: Path
) -> None:
    (workplace / "settings.yaml").write_text(TINY_YAML + "seed: 3\ntuned: never\n")
    entry_point("train", "-P", "config=settings.yaml", "-P", "dataset=stripes", "-P", "seed=8")
    (run,) = active_runs()
    assert run.data.params["seed"] == "8"
    assert run.data.params["width"] == "4"
