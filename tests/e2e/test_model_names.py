"""Forms that name a model, in all commands, and names of registered models that MLflow allows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

import eyevsai as package
from eyevsai.registry.versions import version_of_run, versions_by_run
from tests.conftest import TRAINED, Eyevsai, copy_trained, extend_trained, once

NAME = TRAINED["deep_v1"]
FAST = ("--corruption-images", "0")
ODD_NAMES = (
    "O'Neill's Vögel (2)",
    "both \"quotes\" and 'these'",
    "what? 100 % #1 & \\ back",
    "me@home.org",
    ".ü" * 100,
)


@pytest.fixture(scope="session")
def named_store(
    tmp_path_factory: pytest.TempPathFactory, trained_store: Path, cache_dir: Path
) -> Path:
    """Return a folder with a store whose deep_v1 version was evaluated and exported."""

    def build(folder: Path) -> None:
        run = extend_trained(trained_store, cache_dir, folder)
        run("evaluate", f"{NAME}/1", *FAST)
        run("export", f"{NAME}/1", "--format", "pytorch")

    return once(tmp_path_factory, "named", build)


@pytest.fixture
def workplace(named_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return copy_trained(named_store, tmp_path / "project", monkeypatch)


@pytest.fixture
def image(workplace: Path) -> str:
    return str(next((workplace / "data").rglob("*.png")))


def run_of(name: str) -> str:
    return str(MlflowClient().get_model_version(name, "1").run_id)


def copy_to(name: str) -> None:
    MlflowClient().copy_model_version(f"models:/{NAME}/1", name)


def test_every_form_names_the_same_model(eyevsai: Eyevsai, workplace: Path, image: str) -> None:
    eyevsai("promote", f"{NAME}/1")
    run_id = run_of(NAME)
    model_uri = f"models:/{MlflowClient().get_run(run_id).outputs.model_outputs[0].model_id}"
    forms = [
        *(f"{prefix}{NAME}/1" for prefix in ("", "models:/")),
        *(f"{prefix}{NAME}@production" for prefix in ("", "models:/")),
        *(f"{prefix}{NAME}/{stage}" for prefix in ("", "models:/") for stage in ("Production",)),
        f"{NAME}/production",
        run_id,
        model_uri,
    ]
    answers = {eyevsai("predict", form, image).stdout for form in forms}
    assert len(answers) == 1
    cards = {eyevsai("describe", form, "--json").stdout for form in forms}
    assert len(cards) == 1
    assert json.loads(cards.pop())["model"] == "deep_v1"
    for form in forms:
        assert f"models:/{NAME}/1 is pinned" in eyevsai("registry", "pin", form).stdout
        (row,) = json.loads(eyevsai("registry", "status", form, "--json").stdout)["versions"]
        assert (row["name"], row["version"], row["pinned"]) == (NAME, 1, "yes")
        assert "is no longer pinned" in eyevsai("registry", "unpin", form).stdout
        assert package.load(form).predict(image).label
        same = eyevsai("promote", form, "--to", "archived", "--force", code=2).stderr
        assert "--force requires --reason" in same  # parsed; a wrong form would be reported first
        log = json.loads(eyevsai("registry", "log", form, "--json").stdout)
        assert log[0]["action"] == "promote"
        assert eyevsai("registry", "reconcile", form).stdout == f"{NAME} is consistent.\n"
    folder = MlflowClient().get_model_version_download_uri(NAME, "1")
    assert eyevsai("predict", folder, image).stdout in answers
    assert package.load(Path(folder)).predict(Path(image)).label
    with pytest.raises(package.UserError, match="must be text or a path, not 3"):
        package.compare(Path(NAME, "1"), 3)  # type: ignore[arg-type]
    assert eyevsai("predict", f"runs:/{run_id}/exports/pytorch", image).stdout


def test_evaluate_export_and_compare_take_the_model_first(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    run_id, other = run_of(NAME), TRAINED["shallow"]
    result = json.loads(eyevsai("evaluate", f"{other}/1", *FAST, "--json").stdout)
    assert result["model"] == f"models:/{other}/1"
    assert f"only models:/{other}/1" in eyevsai("compare", run_id, f"{other}/latest").stdout
    eyevsai("export", run_id, "--model-uri", run_id, "--run", run_id, "--format", "onnx")
    assert package.evaluate(f"{NAME}/1", corruption_images=0).model == f"models:/{NAME}/1"
    assert package.compare(f"{NAME}/1", f"{other}/1").images
    for words, text in [
        ((f"{NAME}/1", "--run", "0" * 32), "contradict each other"),
        ((f"{NAME}/1", "--model-uri", f"{NAME}/2"), "contradict each other"),
        (("./exports/onnx",), "is a path, but a run or a registered version is required"),
        ((f"runs:/{run_id}/exports/onnx",), "is an export, but a run or a registered version"),
        ((NAME,), f"no version of it. Its versions: 1. Use one of them, such as {NAME}/1"),
    ]:
        assert text in eyevsai("evaluate", *words, code=2).stderr
    with pytest.raises(package.UserError, match="contradict each other"):
        package.evaluate(f"{NAME}/1", model_uri=f"{NAME}/2")


def test_a_form_that_a_command_cannot_use_is_refused_with_one_that_it_can(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    for words, text in [
        (("promote", "./exports"), "is a path, but a registered version is required. Use NAME/"),
        (("promote", NAME), f"promote requires a version. Use: eyevsai promote {NAME}/VERSION"),
        (("promote", f"{NAME}/1", "--version", "2"), f"{NAME}/1 and version 2 contradict each"),
        (("promote", f"{NAME}/1", "--name", "other"), "contradict each other"),
        (("registry", "pin", NAME), "no version of it. Use NAME/VERSION; list the versions with"),
        (("registry", "pin", f"{NAME}/1", "2"), "contradict each other"),
        (("rollback", f"{NAME}/1"), "not in Production, whose previous version rollback restores"),
        (("registry", "log", "/tmp"), "is a path, but a registered version is required"),
        (("registry", "status", f"{NAME}/7"), "There is no version 7 of the registered model"),
        (("describe", f"{NAME}/1", "--epochs", "3"), "settings of the trained model"),
    ]:
        assert text in eyevsai(*words, code=2).stderr, words


def test_a_missing_name_stage_alias_and_version_have_their_own_messages(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    for form, text in [
        (f"{NAME[:-1]}/1", f"There is no registered model '{NAME[:-1]}'. Did you mean '{NAME}'?"),
        (f"{NAME}/2", f"There is no version 2 of the registered model '{NAME}'. Its versions: 1"),
        (f"{NAME}@champ", "has no alias 'champ'. Did you mean 'champion'? Its aliases: champion"),
        (
            f"{NAME}/Staging",
            f"No version of the registered model '{NAME}' is in the stage Staging.",
        ),
    ]:
        message = eyevsai("evaluate", form, code=2).stderr
        assert text in message
        assert "`eyevsai registry status`" in message
    assert (
        "For an alias, use models:/a@best" in eyevsai("evaluate", "models:/a/best", code=2).stderr
    )


def test_a_stage_follows_an_alias_that_was_moved_by_hand(
    eyevsai: Eyevsai, workplace: Path, image: str
) -> None:
    client, run_id = MlflowClient(), run_of(NAME)
    eyevsai("promote", f"{NAME}/1")
    original = client.get_model_version(NAME, "1")
    client.create_model_version(NAME, original.source, run_id, tags=original.tags)
    client.set_registered_model_alias(NAME, "production", "2")
    for form in (f"{NAME}/Production", f"{NAME}@production"):
        status = eyevsai("registry", "status", form, "--json", code=1)
        assert [row["version"] for row in json.loads(status.stdout)["versions"]] == [2]
        assert f"eyevsai registry reconcile {NAME}" in eyevsai("predict", form, image).stderr
    eyevsai("registry", "reconcile", f"{NAME}/Production")
    message = eyevsai("predict", f"{NAME}/Production", image).stderr
    assert "reconcile" not in message
    log = json.loads(eyevsai("registry", "log", NAME, "--json").stdout)
    assert log[-1]["reason"] == "found: the alias was set by hand, or a command was interrupted"
    client.delete_registered_model_alias(NAME, "production")
    message = eyevsai("predict", f"{NAME}/Production", image, code=2).stderr
    assert "alias production is none, stage Production is 2; the alias was set by" in message


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_name_that_mlflow_allows_works_in_every_command(
    eyevsai: Eyevsai, workplace: Path, image: str, name: str
) -> None:
    copy_to(name)
    form = f"{name}/1"
    answer = eyevsai("predict", f"{NAME}/1", image).stdout
    assert eyevsai("predict", form, image).stdout == answer
    assert eyevsai("predict", f"models:/{form}", image).stdout == answer
    assert package.load(form).classes
    eyevsai("promote", form, "--reason", "the first")
    eyevsai("evaluate", f"{name}@production", *FAST)
    copy_to(name)
    eyevsai("promote", name, "--version", "2")
    assert f"models:/{name}/1, previously version 2" in eyevsai("rollback", name).stdout
    assert eyevsai("registry", "reconcile", name).stdout == f"{name} is consistent.\n"
    log = json.loads(eyevsai("registry", "log", name, "--json").stdout)
    assert [each["action"] for each in log] == ["promote", "promote", "rollback"]
    assert len(json.loads(eyevsai("registry", "log", f"{name}/2", "--json").stdout)) == 2
    (row, *_) = json.loads(eyevsai("registry", "status", name, "--json").stdout)["versions"]
    assert row["name"] == name
    eyevsai("registry", "pin", name, "1")
    eyevsai("registry", "unpin", form)
    eyevsai("export", form, "--format", "onnx", "--output", "out")
    (folder,) = (workplace / "out").iterdir()
    assert (folder / "onnx" / "manifest.json").is_file()
    assert folder.name.isascii()
    plan = json.loads(eyevsai("cleanup", "--all", "--dry-run", "--json").stdout)
    assert plan


def test_a_renamed_model_is_managed_under_its_new_name(
    eyevsai: Eyevsai, workplace: Path, image: str
) -> None:
    name = "Müller's <b>birds & co"
    MlflowClient().rename_registered_model(NAME, name)
    eyevsai("promote", f"{name}/1")
    assert eyevsai("predict", f"{name}/Production", image).stdout
    eyevsai("export", "--package", "game", "--format", "onnx")
    info = json.loads((workplace / "game" / "deployment_info.json").read_text())
    folders = [each["folder"] for model in info["models"] for each in model["formats"].values()]
    assert all((workplace / "game" / folder).is_dir() for folder in folders)
    eyevsai("report")
    page = next((workplace / "reports").glob("*.html")).read_text()
    assert "<b>birds" not in page
    eyevsai("cleanup", "--keep", "0", "--including-newest", "--yes")
    assert [each.version for each in MlflowClient().search_model_versions("")].count(1) >= 1


def test_a_path_of_a_model_goes_before_a_version_of_the_same_spelling(
    eyevsai: Eyevsai, workplace: Path, image: str
) -> None:
    (workplace / NAME / "1").mkdir(parents=True)  # images, for example
    assert eyevsai("predict", f"{NAME}/1", image).stdout
    (workplace / NAME / "1").rmdir()
    shutil.copytree(
        MlflowClient().get_model_version_download_uri(NAME, "1"), workplace / NAME / "1"
    )
    message = eyevsai("predict", f"{NAME}/1", image).stderr
    assert "is a path here, and is loaded from there" in message
    assert f"For the registered version, use models:/{NAME}/1" in message
    assert "is a path here" not in eyevsai("predict", f"models:/{NAME}/1", image).stderr


def test_a_run_names_the_version_that_it_registered_not_a_copy(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, run_id = str(MlflowClient().tracking_uri), run_of(NAME)
    for name in ("a copy", "z copy", "z copy"):
        copy_to(name)
    for version in (version_of_run(store, run_id), versions_by_run(store)[run_id]):
        assert version is not None
        assert version.uri == f"models:/{NAME}/1"
    MlflowClient().delete_model_version(NAME, "1")
    rest = version_of_run(store, run_id)  # only copies: the newest of them
    assert rest is not None
    assert rest.uri == "models:/z copy/2"
