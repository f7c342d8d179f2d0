from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.errors import RunFailed, UserError
from eyevsai.jobs.candidates import read_candidates
from eyevsai.names import ModelName
from eyevsai.registry.audit import MODEL, REFUSED, recording
from eyevsai.registry.versions import check_name


def test_two_datasets_that_are_written_alike_are_told_apart(workplace: Path) -> None:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    first, second = ModelName("my birds", "deep_v1", "standard"), ModelName("my_birds", "deep_v1", "standard")
    assert first.registered == second.registered == "my_birds-deep_v1-standard"
    check_name(uri, first)
    MlflowClient().create_registered_model(first.registered, tags=vars(first))
    check_name(uri, first)
    with pytest.raises(UserError, match="belongs to the dataset 'my birds'"):
        check_name(uri, second)


def attempt(name: str, error: type[BaseException] | None, **tags: object) -> None:
    """A promotion of version 1, as it is recorded, that ends by an error."""
    about = {f"{MODEL}{name}": 1, "stage": "production", "after": 1}
    with suppress(KeyboardInterrupt, RunFailed, SystemExit), recording(MlflowClient(), "promote", "", about) as record:
        record.tags(tags)
        if error is not None:
            raise error


def test_a_promotion_that_was_interrupted_is_no_refusal(workplace: Path) -> None:
    uri, name = os.environ["MLFLOW_TRACKING_URI"], "pets-deep_v1-standard"
    client = MlflowClient()
    client.create_registered_model(name, tags={"dataset": "pets", "model": "deep_v1", "variation": "standard"})
    client.create_model_version(name, str(workplace), client.create_run("0").info.run_id)

    def objections() -> str:
        (found,) = read_candidates(uri)
        return "; ".join(found.objections)

    for error in (KeyboardInterrupt, SystemExit, RunFailed):  # before the gate answered: Ctrl-C, a kill, an outage
        attempt(name, error)
        assert objections() == ""
    attempt(name, RunFailed, **{REFUSED: True})
    assert "the gate before Production did not let it through" in objections()
    attempt(name, KeyboardInterrupt)
    assert "did not let it through" in objections()  # the last word of the gate holds
    attempt(name, RunFailed, **{REFUSED: False})  # the store went away while it was handed over
    assert objections() == ""
    attempt(name, KeyboardInterrupt, **{REFUSED: True, "forced": True})  # which nobody has promoted
    assert "did not let it through" in objections()
    attempt(name, None, **{REFUSED: True, "forced": True})
    assert "past the gate by --force" in objections()
    client.create_run(
        client.get_experiment_by_name("eyevsai-registry").experiment_id,
        tags={"action": "promote", "stage": "production", "after": "1", f"{MODEL}{name}": "1"},
    )  # it is asked just now
    assert "past the gate by --force" in objections()
    attempt(name, None, **{REFUSED: False})
    assert objections() == ""
