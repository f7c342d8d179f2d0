"""All models of a store in one report, as a person and as a game's backend read it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from mlflow import MlflowClient

import eyevsai as package
from eyevsai.core.errors import UserError
from eyevsai.reports.game_backend import read_schema
from eyevsai.reports.settings import ReportSettings
from eyevsai.workflows.job_context import job_context
from eyevsai.workflows.report.collect import read_model_versions
from eyevsai.workflows.report.report import write_reports
from tests.conftest import (
    SMALL_FOREST,
    SMALL_NETWORK,
    Eyevsai,
    copy_store,
    copy_trained,
    draw_image,
    experiments,
    once,
    write_images,
)
from tests.html_pages import check_self_contained
from tests.invoke import invoke
from tests.legacy_registry import make_record, write_registry

DEEP, FOREST = "stripes-deep_v1-standard", "stripes-shallow-rf_hog_lbp"
KINDS = (
    "accuracy_heatmap",
    "performance_distribution",
    "top_models",
    "all_models_report",
    "summary_report",
    "all_models",
    "game_backend_report",
)


@pytest.fixture(scope="session")
def reported_store(
    tmp_path_factory: pytest.TempPathFactory, template_store: Path, cache_dir: Path
) -> Path:
    """Return a folder with a store of two models, of which one was evaluated and exported."""

    def build(folder: Path) -> None:
        copy_store(template_store, folder)
        images = write_images(folder / "data" / "stripes", {"across": 40, "down": 40, "wide": 40})
        env = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "EYEVSAI_CACHE": str(cache_dir),
            "EYEVSAI_STATE": str(folder / "state"),
        }
        for command in [
            ("train", "--data", str(images), *SMALL_NETWORK, "--epochs", "8"),
            ("evaluate", "--model-uri", f"models:/{DEEP}/1", "--corruption-images", "0"),
            ("export", "--model-uri", f"models:/{DEEP}/1"),
            ("train", "--data", str(images), *SMALL_FOREST, "--threads", "1"),
        ]:
            invoke(folder, *command, **env)

    return once(tmp_path_factory, "reported", build)


@pytest.fixture
def workplace(reported_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, as the current folder."""
    return copy_trained(reported_store, tmp_path / "project", monkeypatch)


def read(folder: Path, kind: str) -> Any:
    """The newest file of a kind."""
    path = max(
        path for path in folder.iterdir() if re.fullmatch(kind + r"_\d{8}_\d{6}\.\w+", path.name)
    )
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines())) if path.suffix == ".csv" else json.loads(text)


def entries_of(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    levels = [
        level
        for dataset in report["datasets"].values()
        for level in dataset["difficulty_levels"].values()
    ]
    entries = [entry for level in levels for entry in level["models"]]
    assert len({entry["model_key"] for entry in entries}) == len(entries)
    return {entry["model_key"]: entry for entry in entries}


def test_entry_point_reports_what_a_backend_can_use(entry_point: Eyevsai, workplace: Path) -> None:
    said = entry_point("report").stdout
    assert "2 models with 2 versions, 1 ready for deployment" in said
    report = read(workplace / "reports", "game_backend_report")
    jsonschema.validate(report, read_schema())
    dataset = report["datasets"]["stripes"]
    assert (dataset["class_names"], dataset["domains"]) == (["across", "down", "wide"], ["stripes"])
    assert dataset["total_models_available"] == 2
    entries = entries_of(report)
    deep, forest = entries[DEEP], entries[FOREST]
    assert (deep["deployment_ready"], forest["deployment_ready"]) == (True, False)
    assert (deep["model_format"], forest["model_format"]) == ("pytorch", "sklearn")
    assert (deep["export_formats"], forest["export_formats"]) == (["onnx"], [])
    assert (deep["accuracy_of"], forest["accuracy_of"]) == ("test", "valid")
    assert any(f"eyevsai evaluate {FOREST}/1" in why for why in forest["deployment_ready_because"])
    assert (
        report["model_descriptions"]["deep_v1/standard"]["name"] == deep["name"] == "Standard CNN"
    )
    image = draw_image(1, 0)
    for location in (
        deep["model_path"],
        deep["local_path"],
        forest["model_path"],
        forest["local_path"],
    ):
        classifier = package.load(location)
        assert set(classifier.classes) == set(dataset["class_names"])
        assert classifier.predict(image).probability > 0
    assert (Path(deep["local_path"]) / "model.onnx").is_file()
    run = MlflowClient().get_run(deep["run_id"]).info
    assert deep["training_time"] == pytest.approx((run.end_time - run.start_time) / 1000)

    (call,) = MlflowClient().search_runs(experiments(), "tags.`eyevsai.job` = 'report'")
    logged = {
        Path(artifact.path).name
        for artifact in MlflowClient().list_artifacts(call.info.run_id, "reports")
    }
    assert call.info.status == "FINISHED"
    assert logged == {path.name for path in (workplace / "reports").iterdir()}
    assert len(logged) == len(KINDS)


def test_tables_and_the_page_say_the_same(eyevsai: Eyevsai, workplace: Path) -> None:
    done = json.loads(eyevsai("report", "--output", "out", "--json").stdout)
    assert (done["models"], done["versions"], done["ready"], done["run_id"]) == (2, 2, 1, None)
    assert sorted(done["files"]) == sorted(KINDS)
    assert {path.name for path in workplace.iterdir() if path.name.startswith(".")} == set()
    rows = {row["model_key"]: row for row in read(workplace / "out", "all_models_report")}
    assert (rows[DEEP]["deployment_ready"], rows[FOREST]["deployment_ready"]) == ("true", "false")
    assert rows[DEEP]["accuracy"] == rows[DEEP]["test_accuracy"]
    assert float(rows[DEEP]["training_time"]) > 0
    summary = read(workplace / "out", "summary_report")
    best = max(rows.values(), key=lambda row: float(row["accuracy"]))
    assert summary["best_overall_model"]["model_key"] == best["model_key"]
    assert (summary["total_models_trained"], summary["model_types"]) == (2, ["deep_v1", "shallow"])
    assert set(summary["best_by_model_type"]) == {"deep_v1", "shallow"}
    assert summary["summary_statistics"]["max"] == summary["best_by_dataset"]["stripes"]["accuracy"]
    page = Path(done["files"]["all_models"]).read_text(encoding="utf-8")
    for row in rows.values():
        assert f"/#/experiments/1/runs/{row['run_id']}" in page  # of the dataset
    assert not re.search(r"(src|href)=\"(?!data:|http://127\.0\.0\.1:5000)", page)
    words = check_self_contained(page).text
    assert "stripes 2 models, 1 ready for deployment." in words
    assert "no not evaluated, no export" in words


def test_the_page_filters_and_sorts_in_a_browser(
    eyevsai: Eyevsai, workplace: Path, screenshots: Any
) -> None:
    done = json.loads(eyevsai("report", "--json").stdout)
    with screenshots.browser_page() as page:
        page.goto(f"file://{workplace / done['files']['all_models']}")
        shown = page.locator("#models tbody tr:visible")

        def names() -> list[str]:
            return [row.locator("td").nth(2).inner_text() for row in shown.all()]

        assert sorted(names()) == ["deep_v1/standard", "shallow/rf_hog_lbp"]
        page.locator("#family").select_option("shallow")
        assert (names(), page.locator("#shown").inner_text()) == (["shallow/rf_hog_lbp"], "1 shown")
        page.locator("#family").select_option("")
        page.locator("#ready").check()
        assert names() == ["deep_v1/standard"]
        page.locator("#ready").uncheck()
        page.locator("#text").fill("STRIPES forest")
        assert names() == ["shallow/rf_hog_lbp"]
        page.locator("#text").fill("")
        page.get_by_role("button", name="model type").click()
        assert names() == ["deep_v1/standard", "shallow/rf_hog_lbp"]
        page.get_by_role("button", name="model type").click()
        assert names() == ["shallow/rf_hog_lbp", "deep_v1/standard"]
        head = page.get_by_role("columnheader", name="model type")
        assert head.get_attribute("aria-sort") == "descending"
        page.keyboard.press("Enter")  # the button of the head has the focus
        assert names() == ["deep_v1/standard", "shallow/rf_hog_lbp"]
        assert head.get_attribute("aria-sort") == "ascending"
        page.locator("#text").fill("no such model")
        assert (page.locator(".panel:visible").count(), names()) == (0, [])


def test_the_page_fits_phones_and_works_in_mlflows_frame(
    eyevsai: Eyevsai, workplace: Path, screenshots: Any
) -> None:
    path = Path(json.loads(eyevsai("report", "--json").stdout)["files"]["all_models"])
    # the attribute of the frame in which MLflow shows an artifact
    frame = f'<iframe sandbox="allow-scripts" width="100%" height="800" src="{path.name}"></iframe>'
    (path.parent / "frame.html").write_text(frame)
    with screenshots.browser_page() as page:
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        for width in (1280, 400):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(path.absolute().as_uri())
            page.locator("#models").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") == width
        page.goto((path.parent / "frame.html").absolute().as_uri())
        frame_page = page.frame_locator("iframe")
        frame_page.get_by_role("button", name="model type").click()
        rows = frame_page.locator("#models tbody tr")
        assert [row.locator("td").nth(2).inner_text() for row in rows.all()] == [
            "deep_v1/standard",
            "shallow/rf_hog_lbp",
        ]
        frame_page.locator("summary", has_text="not evaluated").click()
        assert frame_page.get_by_text(f"eyevsai evaluate {FOREST}/1").is_visible()
        assert messages == []


def test_ready_follows_what_becomes_of_a_model(eyevsai: Eyevsai, workplace: Path) -> None:
    client = MlflowClient()

    def lacks() -> str:
        eyevsai("report")
        entry = entries_of(read(workplace / "reports", "game_backend_report"))[DEEP]
        shutil.rmtree(workplace / "reports")
        assert entry["metadata"]["deployment_ready"] is entry["deployment_ready"]
        return "" if entry["deployment_ready"] else "; ".join(entry["deployment_ready_because"])

    assert lacks() == ""
    # of the newest model: others' classes are known
    client.delete_run(client.get_model_version(FOREST, "1").run_id)
    assert lacks() == ""
    client.set_model_version_tag(DEEP, "1", "export.openvino", "refused")
    assert "export as openvino failed the parity check" in lacks()
    client.delete_model_version_tag(DEEP, "1", "export.openvino")
    policy = workplace / "policy.toml"
    policy.write_text("max_latency_ms = 0.0001")
    strictly = ("promote", DEEP, "--version", "1", "--policy", str(policy))
    eyevsai(*strictly, code=1)
    assert "it failed the promotion checks" in lacks()
    eyevsai(*strictly, "--force", "--reason", "for a day")
    assert "against its checks by --force" in lacks()
    eyevsai("promote", DEEP, "--version", "1")
    assert lacks() == ""
    shutil.rmtree(next(workplace.rglob("exports/onnx")))
    assert "the files of its export as onnx are missing" in lacks()


def test_versions_of_production_and_of_other_names(eyevsai: Eyevsai, workplace: Path) -> None:
    client = MlflowClient()
    run = client.get_model_version(DEEP, "1").run_id
    source = client.get_model_version(DEEP, "1").source
    client.create_model_version(DEEP, source, run, tags=client.get_model_version(DEEP, "1").tags)
    eyevsai(
        "registry",
        "best",
        "--dataset",
        "stripes",
        "--promote",
        "--force",
        "--reason",
        "it is the only one",
    )
    by_number = {
        each.number: each
        for each in read_model_versions(str(client.tracking_uri))
        if each.key == DEEP
    }
    assert set(by_number) == {1, 2}
    eyevsai("report")
    entries = entries_of(read(workplace / "reports", "game_backend_report"))
    assert set(entries) == {DEEP, FOREST}  # `stripes` is nobody's own
    assert (entries[DEEP]["version"], entries[DEEP]["chosen_because"]) == (
        "2",
        "it is the best of 2 versions by test accuracy",
    )
    eyevsai("promote", DEEP, "--version", "1")
    shutil.rmtree(workplace / "reports")
    eyevsai("report")
    entry = entries_of(read(workplace / "reports", "game_backend_report"))[DEEP]
    assert (entry["version"], entry["stage"], entry["chosen_because"]) == (
        "1",
        "production",
        "it is in Production",
    )


def test_what_was_imported_without_a_model_is_in_the_table_alone(
    eyevsai: Eyevsai, workplace: Path
) -> None:
    eyevsai("registry", "import", str(write_registry(workplace / "registry.json", make_record(1))))
    eyevsai("report")
    rows = {row["model_key"]: row for row in read(workplace / "reports", "all_models_report")}
    imported = rows["pets-deep_v2-resnet"]
    assert (imported["reported"], imported["model_path"]) == ("false", "")
    assert (float(imported["accuracy"]), float(imported["training_time"])) == (0.49, 3600.5)
    assert set(entries_of(read(workplace / "reports", "game_backend_report"))) == {DEEP, FOREST}


def test_another_jobs_run_takes_the_files(workplace: Path, tmp_path: Path) -> None:
    uri = str(MlflowClient().tracking_uri)
    settings = ReportSettings(models="shallow", output=str(tmp_path / "deep" / "out"))
    with (
        job_context(tmp_path / "state") as job,
        job.start_run("parent", {"eyevsai.job": "train_all"}) as run,
    ):
        done = write_reports(settings, uri, run)
    logged = {
        Path(artifact.path).name
        for artifact in MlflowClient().list_artifacts(run.run_id, "reports")
    }
    assert logged == {path.name for path in done.files.values()}
    assert (done.models, done.run_id) == (1, run.run_id)


def fill_up_at(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The disk fills up when a file of this kind is moved."""
    original = Path.replace

    def fill_up(path: Path, target: Path) -> Path:
        if path.name.startswith(kind):
            raise OSError(28, "No space left on device")
        return original(path, target)

    monkeypatch.setattr(Path, "replace", fill_up)


def test_a_disk_that_fills_up_leaves_nothing(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_up_at(monkeypatch, "summary_report")
    settings = ReportSettings(output=str(tmp_path / "full" / "out"))
    with pytest.raises(UserError, match="No space left on device"):
        write_reports(settings, str(MlflowClient().tracking_uri))
    assert [path for path in (tmp_path / "full").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "full" / "out").iterdir()) == []


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder of another filesystem than the one in which tests write."""
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second filesystem that is writable, as /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_output_may_lead_to_another_filesystem(
    eyevsai: Eyevsai, workplace: Path, elsewhere: Path
) -> None:
    (workplace / "out").symlink_to(elsewhere)
    eyevsai("report", "--output", "out")
    assert len(read(elsewhere, "all_models_report")) == 2
    assert len(list(elsewhere.iterdir())) == len(KINDS)
    assert not list(workplace.glob(".*"))


class Noon(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Noon:
        return cls(2026, 3, 3, 12, tzinfo=tz)


def test_reports_of_the_same_second_stand_side_by_side(
    workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyevsai.workflows.report import report

    monkeypatch.setattr(report, "datetime", Noon)
    uri, out = str(MlflowClient().tracking_uri), tmp_path / "out"
    first = write_reports(ReportSettings(output=str(out)), uri)
    kept = {path: path.read_bytes() for path in first.files.values()}
    assert {path.stem[-15:] for path in kept} == {"20260303_120000"}
    second = write_reports(ReportSettings(output=str(out), models="shallow"), uri)
    assert {path.stem[-15:] for path in second.files.values()} == {"20260303_120001"}
    assert [row["model_key"] for row in read(out, "all_models_report")] == [FOREST]
    with monkeypatch.context() as patch:
        fill_up_at(patch, "summary_report")
        with pytest.raises(UserError, match="No space left on device"):
            write_reports(ReportSettings(output=str(out)), uri)
    assert len(list(out.iterdir())) == 2 * len(KINDS)
    assert {path: path.read_bytes() for path in kept} == kept


def test_bad_input_is_said_and_leaves_nothing(
    eyevsai: Eyevsai, workplace: Path, tmp_path: Path
) -> None:
    for words in (("--models", "deep_v3"), ("deep_v3",)):
        said = eyevsai("report", *words, code=2).stderr
        assert "There is no model 'deep_v3'. Did you mean 'deep_v" in said
    assert "contradict" in eyevsai("report", "shallow", "--models", "deep_v2", code=2).stderr
    assert (
        "Did you mean 'deep_v1/standard'?"
        in eyevsai("report", "--models", "shallow,deep_v1/standart", code=2).stderr
    )
    assert (
        "'stripe'. Did you mean 'stripes'?"
        in eyevsai("report", "--datasets", "stripe", code=2).stderr
    )
    said = eyevsai("report", "--models", "deep_v2", "--datasets", "stripes", code=2).stderr
    assert "eyevsai train --model deep_v2 --variation resnet --dataset stripes" in said
    (tmp_path / "file").write_text("")
    assert (
        "Choose another --output"
        in eyevsai("report", "--output", str(tmp_path / "file"), code=2).stderr
    )
    for model in MlflowClient().search_registered_models():
        MlflowClient().delete_registered_model(model.name)
    said = eyevsai("report", "--datasets", "stripes", code=2).stderr
    assert "the store has no registered models" in said
    assert "eyevsai train" in said
    assert not list(workplace.glob("*reports*"))
    assert not list(workplace.glob(".*"))
    assert not list(tmp_path.glob(".*"))
