"""Class lists: their hash, their tags, what a change is, and who is asked before one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from eyevsai.core.errors import UserError
from eyevsai.core.names import ModelName
from eyevsai.registry.classes import (
    MODEL_TAG,
    VERSION_TAG,
    check_change,
    class_tags,
    compare_classes,
    hash_classes,
    name_some,
    read_classes,
    recorded_classes,
)
from eyevsai.registry.entities import find_model
from eyevsai.registry.registration import register
from eyevsai.store.tags import CLASSES_SHA256
from eyevsai.tracking.search import find_study
from eyevsai.workflows.registry.class_lists import check_classes

NAME = ModelName("birds", "deep_v1", "standard")
LISTS = st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=12)


@given(LISTS)
def test_a_list_is_read_back_from_its_tags(classes: list[str]) -> None:
    assert read_classes(class_tags(classes)) == tuple(classes)
    assert hash_classes(classes) == hash_classes(reversed(classes))
    assert compare_classes(classes, classes[::-1]).is_empty
    assert read_classes(class_tags(classes) | {"classes": '["changed by hand"]'}) is None


@given(LISTS, LISTS)
def test_a_change_is_what_was_added_and_removed(recorded: list[str], new: list[str]) -> None:
    change = compare_classes(recorded, new)
    assert (set(recorded) | set(change.added)) - set(change.removed) == set(new)
    assert change.is_empty == (hash_classes(recorded) == hash_classes(new))


def test_half_of_the_recorded_classes_have_to_remain() -> None:
    assert check_change(NAME, "abcd", "abxyz", consented=True).removed == ("c", "d")
    # those that remain, whatever was added
    assert check_change(NAME, "a", "abcdefgh", consented=True).shared == 1.0
    with pytest.raises(
        UserError,
        match=r"it has 1 of the 4 classes of that model \(a, b, c, d\).*--dataset-name NAME",
    ):
        check_change(NAME, "abcd", "axyz", consented=True)
    with pytest.raises(UserError, match=r"added e.*--class-change true"):
        check_change(NAME, "abcd", "abcde", consented=False)
    assert name_some("abcdefghij") == "a, b, c, d, e, f, g, h and 2 more"


def add_version(classes: list[str], **settings: bool) -> str:
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    tags = class_tags(classes, longest=VERSION_TAG)
    return register(client.tracking_uri, NAME, None, run_id, tags, classes=classes, **settings)


def test_a_list_that_no_tag_of_a_model_holds_is_read_from_a_version(workplace: Path) -> None:
    long = [f"a class with a long name and the number {number}" for number in range(400)]
    add_version(long)
    model = find_model(MlflowClient(), NAME.registered)
    assert model is not None
    assert model.tags["classes"] == ""
    assert len(model.versions[0].tags["classes"]) > MODEL_TAG
    assert recorded_classes(model) == tuple(long)
    with pytest.raises(UserError, match="removed a class with a long name and the number 399"):
        add_version(long[:-1])
    with pytest.raises(UserError, match="removed a class with a long name and the number 399"):
        check_classes(os.environ["MLFLOW_TRACKING_URI"], NAME, long[:-1], consented=False)


def test_a_version_that_was_registered_while_another_run_trained_counts(workplace: Path) -> None:
    """Both runs find no registered model before they train; the second one is refused as it
    registers.
    """
    uri = os.environ["MLFLOW_TRACKING_URI"]
    for classes in (["jay", "wren"], ["audi", "bmw"]):
        check_classes(uri, NAME, classes, consented=False)
    add_version(["jay", "wren"])
    with pytest.raises(UserError, match="it has 0 of the 2 classes"):
        add_version(["audi", "bmw"])
    assert len(MlflowClient().search_model_versions(f"name = '{NAME.registered}'")) == 1


def test_registering_again_after_an_interruption_adds_nothing(workplace: Path) -> None:
    client = MlflowClient()
    add_version(["jay", "wren"])
    run_id, new = client.create_run("0").info.run_id, ["jay", "owl", "wren"]
    told = {"tags": class_tags(new, longest=VERSION_TAG), "classes": new, "class_change": True}
    for _ in range(2):
        assert register(client.tracking_uri, NAME, None, run_id, **told) == f"models:/{NAME}/2"
        # killed before the model's list was written
        for tag, value in class_tags(["jay", "wren"]).items():
            client.set_registered_model_tag(NAME.registered, tag, value)
    register(client.tracking_uri, NAME, None, run_id, **told)
    model = find_model(client, NAME.registered)
    assert model is not None
    assert recorded_classes(model) == tuple(new)
    assert model.versions[1].tags["classes_added"] == '["owl"]'


def test_studies_are_found_by_their_class_list(workplace: Path) -> None:
    client, uri = MlflowClient(), os.environ["MLFLOW_TRACKING_URI"]
    tags = {"eyevsai.job": "tune", **vars(NAME), "study": "s"}

    def add_study(**more: str) -> str:
        run_id = str(client.create_run("0", tags=tags | more).info.run_id)
        client.set_terminated(run_id)
        return run_id

    birds, cars = hash_classes(["jay", "wren"]), hash_classes(["audi", "bmw"])
    first, second = (add_study(**{CLASSES_SHA256: digest}) for digest in (birds, cars))
    for wanted in (None, "s"):
        assert find_study(uri, vars(NAME), wanted) == second
        assert find_study(uri, vars(NAME), wanted, birds) == first
        assert find_study(uri, vars(NAME), wanted, hash_classes(["rose"])) is None
    earlier = add_study()  # of a version that recorded no classes
    assert find_study(uri, vars(NAME), None, birds) == earlier
