"""Steps of a retraining that only some policies have: tuning, exports, and training on Ray."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from eyevsai.registry.retraining_runs import find_retraining_run
from eyevsai.registry.versions import exports_of
from eyevsai.retraining.record import Action
from eyevsai.store.tags import PARENT
from eyevsai.workflows.watch import watch as watch_module
from tests.conftest import Eyevsai, experiments
from tests.e2e.stripes import NAME, VERSION, draw
from tests.served import Served

# one worker: a test of test_watch.py moves the images of the shared store
pytestmark = pytest.mark.xdist_group("watch")
POLICY = """
min_labels = 40
new_labels = 1000
cooldown_hours = 0
recent_tolerance = 0.2
promotion_policy = "promotion.toml"
"""
TRAIN = "[train]\nepochs = 6\n"


@pytest.fixture
def workplace(served_project: Path) -> Path:
    (served_project / "promotion.toml").write_text("tolerance = 0.2\n")
    return served_project


def retrain(eyevsai: Eyevsai, served: Served) -> dict[str, Any]:
    """Label 150 shifted answers, and return the result of a call that retrains."""
    shifted, labels = draw(150, 900, is_shifted=True)
    served.label(served.answer(shifted), labels)
    return start(eyevsai)


def start(eyevsai: Eyevsai) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(
        eyevsai("watch", NAME, "--start", "--json", code=None).stdout
    )
    return result


def runs_of(job: str) -> list[Any]:
    """Return the runs of a job that this retraining started."""
    run = find_retraining_run(MlflowClient(), NAME)
    assert run is not None
    return MlflowClient().search_runs(
        experiments(), f"tags.`eyevsai.job` = '{job}' and tags.`{PARENT}` = '{run.run_id}'"
    )


@pytest.mark.processes("more than 64 images are decoded in worker processes")
@pytest.mark.usefixtures("steps_in_process")
def test_tuning_before_the_training(
    eyevsai: Eyevsai, served: Served, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A watcher that is killed after the study repeats the step, which has no more trials."""
    (workplace / "retraining.toml").write_text(f"trials = 2\n{POLICY}{TRAIN}")
    perform = watch_module._Watcher._perform

    class Killed(BaseException):
        """End of the process."""

    def perform_and_die(self: Any, action: Action) -> Any:
        event = perform(self, action)
        if action is Action.TUNE:
            raise Killed
        return event

    with monkeypatch.context() as patch:
        patch.setattr(watch_module._Watcher, "_perform", perform_and_die)
        with pytest.raises(Killed):
            retrain(eyevsai, served)
    result = json.loads(eyevsai("watch", NAME, "--json").stdout)
    assert result["changes"][:2] == ["tuning -> training", "training -> evaluating"], result
    assert (result["state"], result["version"]) == ("waiting", 2)
    (study,) = runs_of("tune")
    trials = [
        run
        for run in MlflowClient().search_runs(experiments())
        if run.data.tags.get("mlflow.parentRunId") == study.info.run_id
    ]
    assert len(trials) == 2
    version = MlflowClient().get_model_version(NAME, "2")
    trained = MlflowClient().get_run(version.run_id)
    assert trained.data.tags["tuned_from"] == study.info.run_id
    assert trained.data.params["epochs"] == "6"  # of the policy


@pytest.mark.processes("more than 64 images are decoded in worker processes")
@pytest.mark.usefixtures("steps_in_process")
def test_exports_of_production_and_of_the_policy(
    eyevsai: Eyevsai, served: Served, workplace: Path
) -> None:
    """The new version is exported as the one in Production, and as a promotion requires."""
    (workplace / "retraining.toml").write_text(POLICY + TRAIN)
    eyevsai("export", VERSION, "--format", "torchscript")
    (workplace / "promotion.toml").write_text('tolerance = 0.2\nexports = "pytorch"\n')
    result = retrain(eyevsai, served)
    assert result["state"] == "waiting", result
    tags = MlflowClient().get_model_version(NAME, "2").tags
    assert exports_of(tags) == {"pytorch": "passed", "torchscript": "passed"}
    eyevsai("promote", f"{NAME}/2")  # what the gate has passed, a promotion does not refuse


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.processes("a Ray cluster of one machine")
@pytest.mark.skipif(find_spec("ray") is None, reason="no ray: pip install -e '.[ray]'")
def test_training_on_ray(eyevsai_process: Eyevsai, served: Served, workplace: Path) -> None:
    executor = '\n[executor]\nexecutor = "ray"\ncpus_per_job = 1\n'
    (workplace / "retraining.toml").write_text(POLICY + TRAIN + executor)
    result = retrain(eyevsai_process, served)
    assert (result["state"], result["version"]) == ("waiting", 2), result
    (trained,) = runs_of("train")
    assert trained.info.status == "FINISHED"
    assert MlflowClient().get_registered_model(NAME).aliases == {"production": 1, "candidate": 2}
