"""Finding the study whose settings a training run takes."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.store.uris import find_store
from eyevsai.tracking.run_metrics import read_columns, read_runs
from eyevsai.tracking.search import find_run, find_study, find_tagged, read_json

TAGS = {"dataset": "pets", "model": "deep_v1"}


def make(status: str = "FINISHED", **tags: str) -> str:
    client = MlflowClient()
    run_id: str = client.create_run(
        "0", tags={"eyevsai.job": "tune", "study": "s", **TAGS, **tags}
    ).info.run_id
    client.set_terminated(run_id, status)
    return run_id


@pytest.mark.usefixtures("workplace")
def test_the_newest_finished_study_of_the_same_model_is_found() -> None:
    older, newer = make(), make(study="other")
    make("FAILED")
    make(model="shallow")
    make(**{"eyevsai.job": "train"})
    MlflowClient().delete_run(make())
    uri = find_store()
    assert find_study(uri, TAGS, None) == newer
    assert find_study(uri, TAGS, "s") == older
    assert find_study(uri, TAGS, older) == older
    assert find_study(uri, {**TAGS, "model": "deep_v2"}, older) is None
    assert find_study(uri, TAGS, "nothing") is None


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize(
    "name", ["cat's", 'a "b"', "x' or '1' = '1", "naïve; drop", "back\\", "it's \"so\"\\'"]
)
def test_names_are_data_and_never_part_of_the_question(name: str) -> None:
    other, own = make(), make(dataset=name)
    assert find_study(find_store(), {**TAGS, "dataset": name}, None) == own
    assert find_study(find_store(), TAGS, None) == other


def test_an_artifact_that_is_not_there_is_none(workplace: Path) -> None:
    run_id = make()
    assert read_json(find_store(), run_id, "best.json") is None
    (workplace / "best.json").write_text('{"a": 1}')
    MlflowClient().log_artifact(run_id, str(workplace / "best.json"))
    assert read_json(find_store(), run_id, "best.json") == {"a": 1}


@pytest.mark.usefixtures("workplace")
def test_runs_of_every_experiment_are_found_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, uri, original = MlflowClient(), find_store(), MlflowClient.search_experiments
    for number in range(3):
        client.create_experiment(f"experiment {number}")
    run_id = make()  # in the oldest one, which MLflow names last
    monkeypatch.setattr(MlflowClient, "search_experiments", partialmethod(original, max_results=1))
    assert [run.run_id for run in find_tagged(uri, TAGS)] == [run_id]
    assert find_study(uri, TAGS, None) == run_id
    assert set(read_runs(client, [run_id])) == {run_id}


@pytest.mark.usefixtures("workplace")
def test_metrics_that_an_earlier_version_logged_are_read_by_their_current_names() -> None:
    client, run_id = MlflowClient(), make()
    former = {"valid/best_accuracy": 0.5, "valid/best_epoch": 3.0, "calibration/ece": 0.1}
    for name, value in {**former, "test/blur_1": 0.4, "test/accuracy": 0.7, "lr": 0.1}.items():
        client.log_metric(run_id, name, value)
    run = find_run(find_store(), run_id)
    current = {"best_valid_accuracy": 0.5, "best_epoch": 3.0, "calibration_ece": 0.1, "lr": 0.1}
    assert run.metrics == {**current, "test_blur_1": 0.4, "test_accuracy": 0.7}
    assert run.score == ("test_accuracy", 0.7)
    client.log_metric(run_id, "test_accuracy", 0.8)  # evaluated again
    assert find_run(find_store(), run_id).score == ("test_accuracy", 0.8)
    for reader in (read_runs, read_columns):
        (metrics,) = reader(client, [run_id]).values()
        assert metrics.metrics["test_accuracy"] == 0.8
        assert metrics.metrics["best_epoch"] == 3.0
