"""The API in a program: what `eyevsai` does on the command line, in somebody's own process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import fluent as fluent_state

import eyevsai as package
from eyevsai import compare, evaluate, export, load, train, tune
from eyevsai.core.errors import JobError, TerminationRequested, UserError
from tests.conftest import Eyevsai, experiments

SMALL: dict[str, Any] = {"epochs": 1, "batch_size": 16, "width": 4, "image_size": 32, "threads": 1}


class AfterFirstEpoch(logging.Handler):
    """Calls something when a job tells of its first epoch: inside the job, and in its thread."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("epoch 1 "):
            self.act()


@pytest.fixture
def after_first_epoch():  # type: ignore[no-untyped-def]
    handlers: list[logging.Handler] = []

    def add(act: Callable[[], None]) -> None:
        handlers.append(AfterFirstEpoch(act))
        logging.getLogger("eyevsai").addHandler(handlers[-1])

    yield add
    for handler in handlers:
        logging.getLogger("eyevsai").removeHandler(handler)


@pytest.fixture
def fluent() -> Iterator[None]:
    """Nothing that MLflow's fluent functions leave in a process, and in those that it starts,
    outlives the test.
    """
    yield
    mlflow.set_tracking_uri(None)
    os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    fluent_state._active_experiment_id = None


@pytest.mark.usefixtures("fluent")
def test_a_program_does_what_commands_do(
    stripes: Path, workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = f"sqlite:///{workplace / 'mlflow.db'}"
    os.environ.pop("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(store)  # the store and the experiment are those that the program chose
    experiment = mlflow.set_experiment("mine").experiment_id
    before = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    handlers = list(logging.getLogger("eyevsai").handlers)
    torch.set_num_threads(2)
    try:
        first = train(data=stripes, lr=np.float32(0.01), **SMALL | {"epochs": np.int64(2)})
        second = train(data=str(stripes), run_name="second", **SMALL)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
        mlflow.set_tracking_uri(None)  # which forgets the variable, too
    os.environ["MLFLOW_TRACKING_URI"] = store
    assert {
        name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")
    } == before
    client = mlflow.MlflowClient()
    assert {run.info.run_id for run in client.search_runs([experiment])} == {
        first.run_id,
        second.run_id,
    }
    assert client.get_run(first.run_id).data.params["epochs"] == "2"
    assert client.get_run(second.run_id).info.run_name == "second"
    assert (first.model_uri, second.model_uri) == tuple(
        f"models:/stripes-deep_v1-standard/{n}" for n in (1, 2)
    )
    assert evaluate(run=first.run_id, corruption_images=0).dataset == "stripes"
    (exported,) = export(
        model_uri=str(first.model_uri), format="onnx", output=workplace / "exports", parity_images=9
    )
    assert exported.parity.failures == []
    picture = next(stripes.glob("wide/*.png"))
    for uri in (str(first.model_uri), f"runs:/{first.run_id}/exports/onnx"):
        assert load(uri).predict(picture).probability == pytest.approx(
            load(uri).predict(picture).probability
        )
    said = capfd.readouterr()
    assert said.out == ""
    assert "epoch 2 of 2" in said.err
    assert logging.getLogger("eyevsai").handlers == handlers


@pytest.mark.slow
def test_a_study_a_comparison_and_a_package(
    stripes: Path, workplace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = tune(data=stripes, n_trials=1, **SMALL)
    assert found.states == {"complete": 1}
    trained = train(data=stripes, tuned=found.run_id, **SMALL)
    assert mlflow.MlflowClient().get_run(trained.run_id).data.tags["tuned_from"] == found.run_id
    other = train(data=stripes, tuned="never", **SMALL | {"epochs": 2})
    for each in (trained, other):
        evaluate(run=each.run_id, corruption_images=0)
    compared = compare(trained.run_id, str(other.model_uri), page=workplace / "page.html")
    assert compared.settings["epochs"] == [1, 2]
    assert (workplace / "page.html").is_file()
    package = export(package="game", format="onnx", parity_images=9)
    assert package.models[0]["model_uri"] in (trained.model_uri, other.model_uri)
    assert capfd.readouterr().out == ""


def test_an_interrupted_job_leaves_a_program_as_it_was(
    stripes: Path, workplace: Path, after_first_epoch: Callable[[Callable[[], None]], None]
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    after_first_epoch(lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        train(data=stripes, **SMALL | {"epochs": 2})
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    (run,) = mlflow.MlflowClient().search_runs(experiments(mlflow.MlflowClient()))
    assert (run.info.status, run.data.tags["eyevsai.termination_reason"]) == ("KILLED", "SIGINT")
    assert not mlflow.MlflowClient().search_registered_models()
    done = train(data=stripes, resume="auto", **SMALL | {"epochs": 2})
    assert done.run_id == run.info.run_id


def test_sigterm_is_passed_on_when_the_run_has_ended(
    stripes: Path, workplace: Path, after_first_epoch: Callable[[Callable[[], None]], None]
) -> None:
    passed_on: list[str] = []
    before = signal.signal(
        signal.SIGTERM,
        lambda *_: passed_on.append(
            mlflow.MlflowClient().search_runs(experiments(mlflow.MlflowClient()))[0].info.status
        ),
    )
    after_first_epoch(lambda: signal.raise_signal(signal.SIGTERM))
    try:
        with pytest.raises(TerminationRequested):
            train(data=stripes, **SMALL | {"epochs": 2})
    finally:
        signal.signal(signal.SIGTERM, before)
    assert passed_on == ["KILLED"]


def test_a_thread_trains_too(stripes: Path, workplace: Path) -> None:
    done: list[package.Trained] = []
    thread = threading.Thread(target=lambda: done.append(train(data=stripes, **SMALL)))
    thread.start()
    thread.join()
    assert done[0].model_uri == "models:/stripes-deep_v1-standard/1"


MISTAKES = {
    "train": [
        {"model": "deep_v3"},
        {"model": "shallow", "lr": 0.1},
        {"epoch": 3},
        {"lr": 5.0},
        {"dataset": "digit"},
        {"preset": "tpu"},
        {"data": "/nowhere"},
        {"resume": "0" * 32},
        {"tuned": "nothing"},
    ],
    "tune": [
        {"resume": "auto"},
        {"n_trials": 0},
        {"sampler": "best"},
        {"n_trial": 3},
        {"space": "none.toml"},
    ],
    "evaluate": [
        {},
        {"run": "0" * 32},
        {"model_uri": "models:/none/1"},
        {"run": "a", "class_map": "none.toml"},
    ],
    "export": [{"format": "onyx"}, {"run": "0" * 32}, {"package": "../game"}, {"package": "game"}],
}


@pytest.mark.parametrize(
    ("command", "given"), [(name, each) for name in MISTAKES for each in MISTAKES[name]], ids=str
)
def test_a_mistake_is_said_as_the_command_says_it(
    command: str, given: dict[str, Any], eyevsai: Eyevsai
) -> None:
    flags = [
        word
        for name, value in given.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    said = eyevsai(command, *flags, code=2).stderr
    with pytest.raises(UserError) as caught:
        getattr(package, command)(**given)
    assert not isinstance(caught.value, JobError)
    assert f"Error: {caught.value}\n" in said


def test_what_only_a_program_can_get_wrong_is_said(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for given, said in {
        "epochs": ("3", "--epochs must be a whole number, not '3'"),
        "lr": (None, "--lr must be a number, not None"),
        "model": (["deep_v1"], "--model must be text, not"),
        "flip": (1, "--flip must be true or false, not 1"),
    }.items():
        with pytest.raises(UserError, match=said[1]):
            train(**{given: said[0]})  # type: ignore[arg-type]
    with pytest.raises(
        UserError, match=r"no option --modeluri of evaluate. Did you mean --model-uri"
    ):
        evaluate(modeluri="models:/a/1")  # type: ignore[call-arg]
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="torchrun"):
        train(**SMALL)
