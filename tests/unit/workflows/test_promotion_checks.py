from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import JobError, UserError
from eyevsai.core.names import ModelName
from eyevsai.registry.audit_log import REFUSED, AuditEntry, previous_version, recording_audit
from eyevsai.registry.audit_tags import MODEL
from eyevsai.registry.registration import check_name
from eyevsai.registry.stages import assign_stage
from eyevsai.workflows.report.collect import read_model_versions, report_models


def test_two_datasets_that_are_written_alike_are_told_apart(workplace: Path) -> None:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    first, second = (
        ModelName("my birds", "deep_v1", "standard"),
        ModelName("my_birds", "deep_v1", "standard"),
    )
    assert first.registered == second.registered == "my_birds-deep_v1-standard"
    check_name(uri, first)
    MlflowClient().create_registered_model(first.registered, tags=vars(first))
    check_name(uri, first)
    with pytest.raises(UserError, match="belongs to the dataset 'my birds'"):
        check_name(uri, second)


def attempt(name: str, error: type[BaseException] | None, **tags: object) -> None:
    """A promotion of version 1, as it is recorded, that ends by an error."""
    about = {f"{MODEL}{name}": 1, "stage": "production", "after": 1}
    with (
        suppress(KeyboardInterrupt, JobError, SystemExit),
        recording_audit(MlflowClient(), "promote", "", about) as record,
    ):
        record.tags(tags)
        if error is not None:
            raise error


def test_a_promotion_that_was_interrupted_is_no_refusal(workplace: Path) -> None:
    uri, name = os.environ["MLFLOW_TRACKING_URI"], "pets-deep_v1-standard"
    client = MlflowClient()
    client.create_registered_model(
        name, tags={"dataset": "pets", "model": "deep_v1", "variation": "standard"}
    )
    client.create_model_version(name, str(workplace), client.create_run("0").info.run_id)

    def objections() -> str:
        (found,) = read_model_versions(uri)
        return "; ".join(found.failed_checks)

    # before the checks were done: Ctrl-C, a kill, an outage
    for error in (KeyboardInterrupt, SystemExit, JobError):
        attempt(name, error)
        assert objections() == ""
    attempt(name, JobError, **{REFUSED: True})
    assert "it failed the promotion checks" in objections()
    attempt(name, KeyboardInterrupt)
    assert "it failed the promotion checks" in objections()  # the last checks count
    attempt(name, JobError, **{REFUSED: False})  # the store went away while it was handed over
    assert objections() == ""
    attempt(name, KeyboardInterrupt, **{REFUSED: True, "forced": True})  # which nobody has promoted
    assert "it failed the promotion checks" in objections()
    attempt(name, None, **{REFUSED: True, "forced": True})
    assert "against its checks by --force" in objections()
    # it is asked just now
    client.create_run(
        client.get_experiment_by_name("eyevsai-registry").experiment_id,
        tags={"action": "promote", "stage": "production", "after": "1", f"{MODEL}{name}": "1"},
    )
    assert "against its checks by --force" in objections()
    attempt(name, None, **{REFUSED: False})
    assert objections() == ""


def register(
    dataset: str, variation: str, classes: list[str] | None, fingerprint: str, **tags: str
) -> str:
    """A version of a model, and a run that names its classes, if there are any."""
    client, name = MlflowClient(), f"{dataset}-deep_v1-{variation}"
    with suppress(MlflowException):
        client.create_registered_model(
            name, tags={"dataset": dataset, "model": "deep_v1", "variation": variation}
        )
    run_id = client.create_run("0").info.run_id
    if classes is not None:
        client.log_dict(run_id, classes, "classes.json")
    told = {"eyevsai.dataset_digest": fingerprint, **tags}
    version = client.create_model_version(
        name, client.get_run(run_id).info.artifact_uri, run_id, tags=told
    )
    return f"{name} {version.version}"


def classes_of(*datasets: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """What each reported version knows, and what the newest one of its dataset does."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    everything = read_model_versions(uri)
    models = report_models(
        uri, [each for each in everything if each.dataset in datasets], everything
    )
    return {
        f"{each.version.key} {each.version.number}": (each.classes, each.classes_of_dataset)
        for each in models
    }


def test_a_run_that_does_not_say_its_classes_hides_no_other_ones(workplace: Path) -> None:
    silent = register("pets", "residual", None, "same")
    telling = register("pets", "standard", ["cat", "dog"], "same")
    assert classes_of("pets") == dict.fromkeys([silent, telling], (("cat", "dog"), ("cat", "dog")))
    # the newest, and the best, of which nobody knows more
    alone = register("pets", "standard", None, "other")
    assert classes_of("pets")[alone] == ((), ("cat", "dog"))


def test_a_version_in_production_is_compared_with_the_newest_one(workplace: Path) -> None:
    current = register("pets", "standard", ["cat", "dog"], "few")
    assign_stage(MlflowClient(), "pets-deep_v1-standard", "production", 1)
    register("pets", "standard", ["cat", "cow", "dog"], "more")
    # a record without a model
    register("pets", "standard", ["imported"], "none", imported="elsewhere")
    assert classes_of("pets") == {current: (("cat", "dog"), ("cat", "cow", "dog"))}


def test_what_was_not_asked_for_is_not_read(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyevsai.workflows.report import collect

    own = register("pets", "standard", ["cat", "dog"], "pets")
    register("birds", "standard", ["jay", "owl"], "birds")
    read, original = list[str](), collect.read_json
    monkeypatch.setattr(
        collect, "read_json", lambda uri, *asked: [read.append(asked[0]), original(uri, *asked)][1]
    )
    assert set(classes_of("pets")) == {own}
    assert read == [MlflowClient().get_model_version("pets-deep_v1-standard", "1").run_id]


def log_of(*changes: tuple[int | None, int | None]) -> list[AuditEntry]:
    """The log of a model whose versions were promoted one after another."""
    begin = datetime(2026, 3, 3, tzinfo=UTC)
    return [
        AuditEntry(
            "r",
            begin + timedelta(days=day),
            "promote",
            "FINISHED",
            "ada",
            "",
            "production",
            before,
            after,
            None,
            False,
            "",
        )
        for day, (before, after) in enumerate(changes)
    ]


@pytest.mark.parametrize(
    ("changes", "current", "there", "before"),
    [
        ([(None, 1), (1, 2)], 2, {1, 2}, 1),
        ([(None, 1), (1, 2), (2, 3)], 3, {1, 3}, 1),  # 2 was deleted
        ([(None, 1), (1, 2), (2, 1)], 1, {1}, None),  # never the version itself
        ([(None, 1), (1, 2), (2, None)], None, {1, 2}, 2),  # it was archived
        ([(None, 1)], 1, {1}, None),
    ],
)
def test_rollback_restores_the_version_before(
    changes: list[tuple[int | None, int | None]],
    current: int | None,
    there: set[int],
    before: int | None,
) -> None:
    assert previous_version(log_of(*changes), "production", current, there) == before
    assert previous_version(log_of(*changes), "staging", None, there) is None
