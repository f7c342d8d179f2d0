"""What a plan may never hold, whatever the registry looks like."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from eyevsai.core.errors import UserError
from eyevsai.registry.artifacts import Artifacts
from eyevsai.registry.entities import KnownVersion, RegisteredModel
from eyevsai.registry.orphans import plan_orphans
from eyevsai.registry.queries import RunQueries
from eyevsai.registry.retention import KnownRun, plan_ended, plan_studies, plan_versions
from eyevsai.registry.settings import CleanupSettings
from eyevsai.store.identity import StoreId
from eyevsai.store.tags import COMPLETE_TRIALS, JOB, PRUNED_FROM, SOURCE_RUN_ID, SOURCE_VERSION

NAMES = ("pets-deep_v1-standard", "pets-deep_v2-resnet", "pets")
STAGES = ("None", "None", "None", "Archived", "Staging", "Production")


def run(run_id: str, status: str = "FINISHED", ended_ms: int = 0, **tags: str) -> KnownRun:
    return KnownRun(run_id, run_id, status, tags, ended_ms, "", False)


@st.composite
def registries(draw: st.DrawFn) -> list[RegisteredModel]:
    """Three models; runs and logged models may be shared, versions may point at one another."""
    models = []
    for name in NAMES:
        versions = []
        for number in sorted(draw(st.sets(st.integers(1, 9), max_size=7))):
            target = f"models:/{draw(st.sampled_from(NAMES))}/{draw(st.integers(1, 9))}"
            kinds = ({}, {}, {"pinned": "yes"}, {SOURCE_VERSION: target}, {PRUNED_FROM: target})
            versions.append(
                KnownVersion(
                    name,
                    number,
                    draw(st.sampled_from(["", *"abcdefgh"])),
                    f"m-{draw(st.integers(0, 20))}",
                    draw(st.sampled_from(STAGES)),
                    draw(st.sampled_from([(), (), (), ("best",)])),
                    draw(st.sampled_from(kinds)),
                    0,
                    0,
                )
            )
        models.append(RegisteredModel(name, {"dataset": "pets"}, {}, tuple(versions)))
    return models


def used_by(version: KnownVersion) -> st.SearchStrategy[list[KnownRun]]:
    return st.just(
        [
            run("r", "RUNNING", **{SOURCE_RUN_ID: version.run_id}),
            run("s", "RUNNING", model_uri=version.uri),
        ]
    )


@given(registries(), st.integers(0, 4), st.data())
def test_nothing_protected_is_ever_planned(
    models: list[RegisteredModel], keep: int, data: st.DataObject
) -> None:
    versions = [version for model in models for version in model.versions]
    running = data.draw(st.sampled_from(versions).flatmap(used_by)) if versions else []
    plan = plan_versions(models, running, [], keep)
    gone = {key for item in plan.items for key in item.versions}
    stays = [version for version in versions if (version.name, version.number) not in gone]
    for model in models:
        assert not gone & {
            (model.name, version.number) for version in model.versions[len(model.versions) - keep :]
        }
    for version in versions:
        if (version.name, version.number) in gone:
            assert version.stage not in ("Production", "Staging")
            assert not version.aliases
            assert "pinned" not in version.tags
            assert version.uri not in {each.tags.get("model_uri") for each in running}
            assert version.run_id not in {each.tags.get(SOURCE_RUN_ID) for each in running} - {""}
            assert version.uri not in {
                each.tags.get(tag) for each in stays for tag in (SOURCE_VERSION, PRUNED_FROM)
            }
            if SOURCE_VERSION not in version.tags:
                assert version.model_id not in {each.model_id for each in stays}
    taken = [run_id for item in plan.items for run_id in item.run_ids]
    assert len(taken) == len(set(taken))
    assert not set(taken) & {version.run_id for version in stays}
    assert {(version.name, version.number) for version in stays} == {
        (name, int(number))
        for name, number in (uri.removeprefix("models:/").rsplit("/", 1) for uri in plan.kept)
    }


def model(*versions: KnownVersion, **tags: str) -> RegisteredModel:
    return RegisteredModel(versions[0].name, tags or {"dataset": "pets"}, {}, versions)


def version(number: int, run_id: str = "", name: str = NAMES[0], **tags: str) -> KnownVersion:
    return KnownVersion(
        name, number, run_id or f"run{number}", f"m-{number}", "None", (), tags, 0, 0
    )


def test_what_a_kept_version_needs_stays_and_what_that_needs_too() -> None:
    first, second = version(1), version(2, **{PRUNED_FROM: f"models:/{NAMES[0]}/1"})
    pointer = replace(
        version(1, "run2", "pets", **{SOURCE_VERSION: second.uri}), model_id=second.model_id
    )
    plan = plan_versions([model(first, second, version(3), version(4)), model(pointer)], [], [], 1)
    assert [item.versions for item in plan.items] == [((NAMES[0], 3),)]
    assert plan.kept[second.uri] == "needed by models:/pets/1"
    assert plan.kept[first.uri] == f"needed by {second.uri}"


def test_the_run_that_pruned_says_so_where_its_version_does_not() -> None:
    pruned = [run("run4", **{PRUNED_FROM: f"models:/{NAMES[0]}/1"})]
    plan = plan_versions([model(*map(version, (1, 2, 3, 4)))], [], pruned, 1)
    assert [item.run_ids for item in plan.items] == [("run2",), ("run3",)]


def test_a_pruned_version_keeps_its_source_when_the_model_was_renamed() -> None:
    tags = {PRUNED_FROM: "models:/former name/1", SOURCE_RUN_ID: "run1"}
    versions = [*map(version, (1, 2, 3)), version(4)]
    plan = plan_versions([model(*versions)], [], [run("run4", **tags)], 1)
    assert [item.run_ids for item in plan.items] == [("run2",), ("run3",)]
    versions = [*map(version, (1, 2, 3)), version(4, **tags)]
    plan = plan_versions([model(*versions)], [], [], 1)
    assert [item.run_ids for item in plan.items] == [("run2",), ("run3",)]


def test_a_pointer_goes_alone_while_its_original_stays() -> None:
    pointers = [
        version(number, "run9", "pets", **{SOURCE_VERSION: f"models:/{NAMES[0]}/9"})
        for number in (1, 2)
    ]
    plan = plan_versions([model(version(9)), model(*pointers)], [], [], 1)
    assert [(item.versions, item.run_ids) for item in plan.items] == [((("pets", 1),), ())]


def test_versions_of_one_run_go_as_one_item() -> None:
    plan = plan_versions([model(version(1, "a"), version(2, "a"), version(3, "b"))], [], [], 1)
    assert [(len(item.versions), item.run_ids) for item in plan.items] == [(2, ("a",))]


def test_models_of_others_are_no_business_of_ours() -> None:
    plan = plan_versions([model(version(1), version(2), owner="somebody")], [], [], 0)
    assert (plan.items, plan.kept) == ((), {})


def test_the_version_of_a_run_that_still_runs_stays() -> None:
    plan = plan_versions([model(version(1), version(2))], [run("run1", "RUNNING")], [], 1)
    assert plan.items == ()
    assert "RUNNING" in plan.kept[f"models:/{NAMES[0]}/1"]


def test_failed_runs_go_but_for_those_with_a_version_a_study_or_somebody_at_work() -> None:
    failed = [run(name, "FAILED") for name in ("plain", "registered", "used", "resumable")]
    failed += [
        run("study", "FAILED", **{JOB: "tune"}),
        run("trial", "FAILED", **{"mlflow.parentRunId": "parent"}),
    ]
    running = [
        run("x", "RUNNING", **{SOURCE_RUN_ID: "used"}),
        run("parent", "RUNNING", **{JOB: "tune"}),
    ]
    plan = plan_ended(failed, running, {"registered"}, {"resumable"}, days=7, now_ms=0)
    assert [item.run_ids for item in plan.items] == [("plain",), ("resumable",)]
    assert "--resume" in plan.items[1].reason
    assert set(plan.kept) == {"run used", "run trial"}


def test_old_studies_go_with_their_trials_but_not_the_one_that_train_takes() -> None:
    day = 86_400_000
    about = {JOB: "tune", "dataset": "pets", "model": "deep_v1", "variation": "standard"}
    studies = [
        run("old", "FINISHED", 10 * day, study="old", **about),
        run("newest", "FINISHED", 11 * day, study="n", **about),
        run("killed", "KILLED", 12 * day, study="k", **about),
        run("recent", "FAILED", 29 * day, study="r", **about),
        run("other", "FINISHED", 1 * day, study="o", **about | {"dataset": "birds"}),
        run("alive", "RUNNING", 2 * day, study="a", **about),
    ]
    trials = [
        run("t1", **{"mlflow.parentRunId": "old"}),
        run("t2", **{"mlflow.parentRunId": "newest"}),
    ]
    plan = plan_studies(studies, trials, [studies[-1]], 7, 30 * day)
    assert [item.run_ids for item in plan.items] == [("t1", "old"), ("killed",)]
    assert len(plan.kept) == 4


def test_a_study_that_train_may_take_stays_behind_a_newer_toy_study() -> None:
    about = {"dataset": "pets", "model": "deep_v1", "variation": "standard"}
    studies = [
        run("proven", "FINISHED", 1, **about, **{COMPLETE_TRIALS: "10"}),
        run("old", "FINISHED", 0, **about),
        run("toy", "FINISHED", 2, **about, **{COMPLETE_TRIALS: "2"}),
    ]
    plan = plan_studies(studies, [], [], 7, 30 * 86_400_000)
    assert [item.run_ids for item in plan.items] == [("old",)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "--old-versions, --failed-runs, --tuning, --cache, --orphans"),
        ({"keep": 0}, "--including-newest"),
        ({"keep": 2, "including_newest": True}, "--including-newest requires --keep 0"),
        ({"keep": -1}, "--keep -1 is not allowed"),
        ({"keep": 5, "failed_runs": True}, "--keep 5 applies to versions, which are not selected"),
        ({"days": 3.0}, "Nothing to clean up is selected"),
    ],
)
def test_settings_that_make_no_sense(given: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said):
        CleanupSettings(**given)  # type: ignore[arg-type]


def test_what_is_meant_by_settings() -> None:
    assert [
        kind for kind in ("old_versions", "cache") if CleanupSettings(keep=5).includes(kind)
    ] == ["old_versions"]
    assert CleanupSettings(all=True).num_kept == 3
    assert CleanupSettings(keep=0, including_newest=True).num_kept == 0


class TestArtifactLocations:
    """Nothing outside a store's own artifacts is ever erased."""

    @pytest.fixture
    def client(self, workplace: Path) -> MlflowClient:
        return MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])

    def test_a_run_whose_files_lie_elsewhere_is_left_alone(
        self, client: MlflowClient, workplace: Path
    ) -> None:
        artifacts, run_id = Artifacts(client), client.create_run("0").info.run_id
        root = workplace / "mlruns" / "0"
        (workplace / "elsewhere" / run_id / "artifacts").mkdir(parents=True)
        root.mkdir(parents=True)
        artifacts.check(f"{root / run_id}/artifacts", run_id, StoreId(frozenset()))
        (root / "linked").symlink_to(workplace / "elsewhere")
        for location in (
            workplace / "elsewhere" / run_id,
            root,
            root / ".." / ".." / "elsewhere" / run_id,
            root / "linked" / run_id,
            root / "other",
        ):
            with pytest.raises(UserError, match="is not deleted"):
                artifacts.check(f"{location}/artifacts", run_id, StoreId(frozenset()))

    def test_run_folders_of_another_store_are_left_alone(
        self, client: MlflowClient, workplace: Path
    ) -> None:
        from eyevsai.store.run_dir import STORE, RunDir
        from eyevsai.store.uris import canonical_uri

        stores = {
            "a" * 32: canonical_uri(client.tracking_uri),
            "b" * 32: "sqlite:////elsewhere/mlflow.db",
            "c" * 32: None,
        }
        for run_id, store in stores.items():
            folder = RunDir(workplace / "state", run_id)
            folder.path.mkdir(parents=True)
            if store:
                folder.write(STORE, store)
        artifacts = Artifacts(client)
        plan = plan_orphans(
            client, artifacts, RunQueries(client, artifacts.experiment_ids), [], workplace / "state"
        )
        assert [item.run_ids for item in plan.items] == [("a" * 32,)]


def test_a_claim_speaks_of_versions(workplace: Path) -> None:
    from eyevsai.registry.deletion import release_reservation, reserve
    from eyevsai.registry.stages import assign_stage

    client = MlflowClient(tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    client.create_registered_model("m", tags={"dataset": "m"})
    run_id = client.create_run("0").info.run_id
    for _ in range(3):
        client.create_model_version("m", f"runs:/{run_id}/model", run_id)
    assign_stage(client, "m", "production", 1)
    reserve(client, "m", [2, 3])
    with pytest.raises(UserError, match="being deleted"):
        assign_stage(client, "m", "production", 2)
    assert client.get_registered_model("m").aliases == {"production": 1}
    release_reservation(client, "m")
    assign_stage(client, "m", "production", 2)
    assert client.get_registered_model("m").aliases == {"production": 2}


def test_version_that_a_rollback_would_restore_stays() -> None:
    plan = plan_versions(
        [model(*map(version, (1, 2, 3, 4)))], [], [], 1, targets={(NAMES[0], 2): "production"}
    )
    assert plan.kept[f"models:/{NAMES[0]}/2"] == "rollback would restore it in production"
    assert [item.versions for item in plan.items] == [((NAMES[0], 1),), ((NAMES[0], 3),)]


def test_only_the_models_that_are_named_lose_versions() -> None:
    other = version(8, "other", "pets"), version(9, "another", "pets")
    plan = plan_versions([model(version(1), version(2)), model(*other)], [], [], 1, only={NAMES[0]})
    assert [item.versions for item in plan.items] == [((NAMES[0], 1),)]
    assert plan.kept["models:/pets/8"] == "its model is not selected"


def test_version_that_a_copy_in_somebodys_own_model_needs_stays() -> None:
    copy = version(1, "run1", "live")
    plan = plan_versions(
        [model(version(1), version(2), version(3)), model(copy, owner="somebody")], [], [], 1
    )
    assert plan.kept[f"models:/{NAMES[0]}/1"] == "needed by models:/live/1"
    assert [item.versions for item in plan.items] == [((NAMES[0], 2),)]


def test_killed_runs_go_when_they_are_old() -> None:
    day = 86_400_000
    runs = [
        replace(run(name, "KILLED"), ended_ms=ended * day)
        for name, ended in (("old", 0), ("young", 9))
    ]
    plan = plan_ended(runs, [], set(), {"old"}, days=7, now_ms=10 * day)
    assert [(item.run_ids, item.reason) for item in plan.items] == [
        (("old",), "KILLED, but could be resumed: --resume")
    ]
    assert list(plan.kept.values()) == ["KILLED less than 7 days ago"]


def test_items_that_fell_out_of_a_plan_are_not_counted() -> None:
    plan = plan_versions([model(*map(version, (1, 2, 3)))], [], [], 1)
    sized = replace(plan, items=tuple(replace(item, size_bytes=5) for item in plan.items))
    assert sized.size_bytes == 10
    assert (
        sized + plan_ended([run("x", "FAILED")], [], set(), set(), days=7, now_ms=0)
    ).size_bytes == 10
