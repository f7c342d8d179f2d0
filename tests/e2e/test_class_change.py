"""Datasets of one name, and classes that are added to a folder or removed from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

import eyevsai as package
from eyevsai.core.errors import UserError
from eyevsai.registry.classes import hash_classes
from tests.conftest import (
    SMALL,
    SMALL_NETWORK,
    STRIPES,
    TRAINED,
    Eyevsai,
    experiments,
    write_images,
)

NAME = TRAINED["deep_v1"]
FAST = ("--corruption-images", "0")
CLASSES = tuple(STRIPES)


@pytest.fixture
def workplace(trained: Path) -> Path:
    return trained


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return another dataset, in a folder that is called like the first one."""
    return write_images(tmp_path / "other" / "stripes", {"audi": 12, "bmw": 12, "fiat": 12})


def tags_of(name: str = NAME, version: int | None = None) -> dict[str, str]:
    client = MlflowClient()
    found = (
        client.get_model_version(name, str(version))
        if version
        else client.get_registered_model(name)
    )
    return dict(found.tags)


def runs() -> int:
    return len(MlflowClient().search_runs(experiments()))


def forget_classes() -> None:
    """Leave the registry as earlier versions of eyevsai wrote it."""
    client = MlflowClient()
    for tag in ("classes", "classes_sha256"):
        client.delete_registered_model_tag(NAME, tag)
        client.delete_model_version_tag(NAME, "1", tag)


def image_of(folder: Path) -> str:
    return str(next(folder.rglob("*.png")))


def train(eyevsai: Eyevsai, data: Path, *flags: str, code: int = 0) -> str:
    done = eyevsai("train", "--data", str(data), *SMALL, "--epochs", "2", *flags, code=code)
    return str(done.stderr if code else done.stdout)


def test_the_class_list_is_recorded_with_the_model_and_its_versions(workplace: Path) -> None:
    for tags in (tags_of(), tags_of(version=1)):
        assert tuple(json.loads(tags["classes"])) == CLASSES
        assert tags["classes_sha256"] == hash_classes(CLASSES)
    assert "classes_added" not in tags_of(version=1)


@pytest.mark.parametrize("known", [True, False], ids=["recorded", "before classes were recorded"])
def test_another_dataset_of_the_same_name_gets_a_name_of_its_own(
    eyevsai: Eyevsai, workplace: Path, other: Path, *, known: bool
) -> None:
    if not known:
        forget_classes()
    before = runs()
    refused = train(eyevsai, other, "--class-change", "true", code=2)
    assert (
        f"The dataset stripes cannot be a new version of {NAME}: it has 0 of the 3 classes"
        in refused
    )
    assert "(across, down, wide), and the classes audi, bmw, fiat." in refused
    assert "--dataset-name NAME" in refused
    assert runs() == before
    assert tags_of()["classes_sha256"] == hash_classes(CLASSES)
    assert "models:/cars-deep_v1-standard/1" in train(eyevsai, other, "--dataset-name", "cars")
    assert tags_of("cars-deep_v1-standard")["dataset"] == "cars"


def test_a_study_and_a_sweep_are_refused_before_time_is_spent(
    eyevsai: Eyevsai, workplace: Path, other: Path, tmp_path: Path
) -> None:
    before = runs()
    for command in (
        (
            "train-all",
            "--data-dir",
            str(other.parent),
            "--datasets",
            "stripes",
            "--models",
            "deep_v1/standard",
            "--epochs",
            "1",
        ),
        ("tune", "--data", str(other), "--n-trials", "1", *SMALL_NETWORK),
    ):
        refused = eyevsai(*command, code=2).stderr
        assert f"The dataset stripes cannot be a new version of {NAME}" in refused, command
    assert runs() == before


@pytest.mark.processes("images are decoded in forks")
def test_added_and_removed_classes_need_consent_to_be_trained(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    data, before = workplace / "data" / "stripes", runs()
    write_images(data, {"across": 0, "down": 0, "wide": 0, "zigzag": 20})
    shutil.rmtree(data / "wide")
    refused = train(eyevsai, data, code=2)
    differ = f"The classes of stripes differ from those of the newest version of {NAME}"
    assert f"{differ}: added zigzag; removed wide." in refused
    assert "--class-change true" in refused
    assert "--dataset-name NAME" in refused
    assert runs() == before
    assert f"models:/{NAME}/2" in train(eyevsai, data, "--class-change")
    tags = tags_of(version=2)
    assert (tags["classes_added"], tags["classes_removed"]) == ('["zigzag"]', '["wide"]')
    assert json.loads(tags_of()["classes"]) == ["across", "down", "zigzag"]
    assert f"models:/{NAME}/3" in train(eyevsai, data)  # the change is known now
    assert "classes_added" not in tags_of(version=3)


@pytest.mark.processes("images are decoded in forks")
def test_other_classes_reach_production_by_consent_only(
    eyevsai: Eyevsai, workplace: Path, tmp_path: Path
) -> None:
    data = workplace / "data" / "stripes"
    common = Path(shutil.copytree(data, tmp_path / "common"))  # which both versions know
    (workplace / "promotion.toml").write_text("tolerance = 1\nsignificance = 0\n")
    image, production = image_of(data), f"models:/{NAME}@production"
    eyevsai("evaluate", "--model-uri", f"models:/{NAME}/1", "--data", str(common), *FAST)
    eyevsai("promote", NAME, "--version", "1")
    write_images(data, {"across": 0, "down": 0, "wide": 0, "zigzag": 20})
    train(eyevsai, data, "--class-change", "true")
    eyevsai("evaluate", "--model-uri", f"models:/{NAME}/2", "--data", str(common), *FAST)
    assert "differ" not in eyevsai("predict", production, image).stderr

    client = MlflowClient()
    client.set_registered_model_alias(NAME, "production", "2")  # by hand
    said = eyevsai("predict", production, image).stderr
    assert (
        f"{production} is version 2, whose classes differ from the promoted ones: added zigzag."
        in said
    )
    assert f"eyevsai promote {NAME}/2 --to production --class-change true" in said
    # the number is consent enough
    assert "differ" not in eyevsai("predict", f"models:/{NAME}/2", image).stderr
    eyevsai("registry", "reconcile", NAME)
    assert "whose classes differ" in eyevsai("predict", production, image).stderr
    client.set_registered_model_alias(NAME, "production", "1")
    eyevsai("registry", "reconcile", NAME)

    for flags in ((), ("--force", "--reason", "a demonstration")):
        refused = eyevsai("promote", NAME, "--version", "2", *flags, code=1).stderr
    assert (
        f"The classes of models:/{NAME}/2 differ from those of production so far: added zigzag."
        in refused
    )
    assert refused.rstrip().endswith("Nothing was changed.")
    assert package.load(production).classes == CLASSES
    said = eyevsai("promote", NAME, "--version", "2", "--class-change", "true").stdout
    assert "the classes differ, which --class-change accepts: added zigzag" in said
    assert "differ" not in eyevsai("predict", production, image).stderr
    done = json.loads(eyevsai("registry", "log", NAME, "--json").stdout)[-1]
    assert client.get_run(done["run_id"]).data.tags["classes_added"] == '["zigzag"]'

    said = eyevsai("rollback", NAME).stderr
    assert (
        f"The classes of models:/{NAME}/1 differ from those of production so far: removed zigzag"
        in said
    )
    assert "differ" not in eyevsai("predict", production, image).stderr


def test_a_run_that_is_resumed_takes_the_consent_that_is_given_now(workplace: Path) -> None:
    from eyevsai.config import compose_train
    from eyevsai.store.run_dir import CONFIG, RunDir
    from eyevsai.workflows.train.resume import restore_config

    folder = RunDir(workplace / "state", "0" * 32)
    folder.path.mkdir(parents=True)
    begun = compose_train({"model": "deep_v1", "epochs": 3})
    folder.write(CONFIG, json.loads(json.dumps(begun.flat())))
    assert not restore_config(compose_train({"resume": "0" * 32}), folder).data.class_change
    assert restore_config(
        compose_train({"resume": "0" * 32, "class_change": True}), folder
    ).data.class_change


def test_an_empty_value_is_not_the_default(
    eyevsai: Eyevsai, entry_point: Eyevsai, workplace: Path
) -> None:
    for words in (
        ("train", "--data", ""),
        ("tune", "--data="),
        ("evaluate", "--run", "", "--model-uri", ""),
    ):
        flag = words[1].rstrip("=")
        refused = eyevsai(*words, code=2).stderr
        assert refused == f"Error: {flag} is empty. Set a value, or omit it.\n", words
    with pytest.raises(UserError, match="--data is empty"):
        package.train(data="")
    # others are empty
    done = entry_point("evaluate", "-P", f"model_uri=models:/{NAME}/1", "-P", "corruption_images=0")
    assert f"models:/{NAME}/1 on" in done.stdout
