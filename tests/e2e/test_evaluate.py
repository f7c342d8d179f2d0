"""`evaluate` and `compare`, as a person uses them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from sklearn.metrics import accuracy_score, log_loss

import eyevsai as package
from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from tests.conftest import SMALL, STRIPES, TRAINED, Eyevsai, experiments, write_images
from tests.html_pages import check_self_contained

COUNTS = STRIPES
NAME = TRAINED["deep_v1"]


@pytest.fixture
def workplace(trained: Path) -> Path:
    return trained


@pytest.fixture
def images(workplace: Path) -> Path:
    return workplace / "data" / "stripes"


@pytest.fixture
def run_id(workplace: Path) -> str:
    """Return the run of a deep_v1 model that was not evaluated."""
    return run_of(NAME)


def run_of(name: str) -> str:
    return str(MlflowClient().get_model_version(name, "1").run_id)


def train(eyevsai: Eyevsai, data: Path, *flags: str) -> str:
    eyevsai("train", "--data", str(data), *SMALL, "--epochs", "8", *flags)
    return runs_of("train")[0].info.run_id


def runs_of(job: str) -> list[Run]:
    return [
        run
        for run in MlflowClient().search_runs(experiments())
        if run.data.tags.get("eyevsai.job") == job
    ]


def artifacts(run_id: str, folder: str | None = None) -> set[str]:
    return {artifact.path for artifact in MlflowClient().list_artifacts(run_id, folder)}


def read(run_id: str, name: str) -> str:
    return Path(MlflowClient().download_artifacts(run_id, name)).read_text()


def test_entry_point_evaluates_on_the_test_split(
    entry_point: Eyevsai, run_id: str, images: Path
) -> None:
    said = entry_point("evaluate", "-P", f"run={run_id}").stdout
    assert f"run {run_id} has test_report.html" in said
    page = f"#/experiments/1/runs/{run_id}?workflowType=machine_learning"
    assert f"see it with: eyevsai ui\nhttp://127.0.0.1:5000/{page}" in said
    run, (call,) = MlflowClient().get_run(run_id), runs_of("evaluate")
    assert (run.info.status, call.info.status, call.data.tags["eyevsai.source_run_id"]) == (
        "FINISHED",
        "FINISHED",
        run_id,
    )
    assert not any(name.startswith("test_") for name in call.data.metrics)

    cache_dir = json.loads(read(run_id, "config.json"))["cache_dir"]
    dataset = load_dataset(DataSettings(data=str(images), cache_dir=cache_dir))
    items = [
        item
        for item, split in zip(dataset.samples, dataset.split_names, strict=True)
        if split == "test"
    ]
    model = package.load(f"models:/{run.data.tags['version'].removeprefix('models:/')}")
    predictions = model.predict_batch([item.file.path for item in items])
    rows = [
        [prediction.probabilities[name] for name in model.classes] for prediction in predictions
    ]
    truth = [item.label for item in items]
    figures = {
        name.removeprefix("test_"): value
        for name, value in run.data.metrics.items()
        if name.startswith("test_")
    }
    assert figures["accuracy"] == accuracy_score(
        truth, [prediction.label for prediction in predictions]
    )
    assert figures["loss"] == pytest.approx(
        log_loss(truth, rows, labels=list(model.classes)), abs=1e-5
    )
    assert figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]
    assert run.data.metrics["calibration_loss"] <= run.data.metrics["best_valid_loss"]
    for name in (
        "top5_accuracy",
        "brier",
        "roc_auc",
        "ece",
        "uncalibrated_ece",
        "latency_ms",
        "images_per_s",
        "peak_memory_mib",
        "blur_1",
        "noise_2",
        "jpeg_3",
        "brightness_1",
    ):
        assert name in figures
    interval = f"{figures['accuracy_low']:.4f} to {figures['accuracy_high']:.4f}"
    accuracy = f"Test accuracy {figures['accuracy']:.4f} (95 % interval {interval}) on"
    assert f"{accuracy} {len(items)} images" in run.data.tags["mlflow.note.content"]
    version = MlflowClient().get_model_version(NAME, "1")
    assert f"{accuracy} `stripes`, 3 classes." in version.description
    assert "Not evaluated" not in version.description
    card = read(run_id, "model_card.md")
    assert f"| accuracy | {figures['accuracy']:.4f} (95 %: {interval}) | " in card
    assert "| `width` | 8 |" in card
    assert "Not evaluated" not in card
    tables = {entry["path"] for entry in json.loads(run.data.tags["mlflow.loggedArtifacts"])}
    assert tables == {
        f"tables/test_{name}.json" for name in ("classes", "confusions", "predictions")
    }
    assert tables <= artifacts(run_id, "tables")
    pictures = (
        "confusion_matrix",
        "classes",
        "reliability",
        "coverage",
        "corruptions",
        "top_losses",
        "grad_cam",
    )
    assert {f"plots/test_{name}.png" for name in pictures} <= artifacts(run_id, "plots")
    page = read(run_id, "test_report.html")
    assert page.count("data:image/png;base64,") == len(pictures)
    text = re.sub(r"data:image/png;base64,[^\"]*", "", page)
    # nothing is fetched from elsewhere; the style of links and the link of the run remain
    text = re.sub(r"<a href=\"http[^\"]*\"|a\[href\^=http\]", "", text)
    assert "http" not in text.replace("http-equiv", "")
    words = check_self_contained(page).text
    assert f"run {run_id}" in words
    assert f"Accuracy {100 * figures['accuracy']:.1f} %, 95 % interval" in words
    assert f"Calibration error (ECE) {100 * figures['ece']:.1f} %" in words
    assert re.search(r"Gaussian blur( \d+\.\d %){5} -?\d+\.\d points test_blur_1", words)


def test_a_version_is_evaluated_on_other_images_and_answers_only_when_it_is_sure(
    eyevsai: Eyevsai, run_id: str, images: Path, tmp_path: Path
) -> None:
    name, client = NAME, MlflowClient()
    client.set_registered_model_alias(name, "champion", "1")
    client.transition_model_version_stage(name, "1", "Production")
    eyevsai(
        "evaluate",
        "--model-uri",
        f"models:/{name}@champion",
        "--target-precision",
        "0.9",
        "--corruption-images",
        "0",
    )
    run = client.get_run(run_id)
    tags = client.get_model_version(name, "1").tags
    assert float(tags["threshold"]) == pytest.approx(run.data.metrics["test_threshold"])
    assert (tags["target_precision"], "test_blur_1" in run.data.metrics) == ("0.9", False)
    model = package.load(f"models:/{name}/Production")
    assert model.threshold == float(tags["threshold"])

    others = write_images(tmp_path / "others", {"quer": 6, "down": 6, "odd": 2}, start=700)
    mapped = tmp_path / "map.toml"
    mapped.write_text('quer = "across"\nodd = ""\n')
    uri = f"models:/{name}/Production"
    assert (
        "does not have these classes of --data: odd, quer"
        in eyevsai("evaluate", "--model-uri", uri, "--data", str(others), code=2).stderr
    )
    (tmp_path / "wrong.toml").write_text('quer = "acros"\nodd = ""\n')
    on_others = ("evaluate", "--model-uri", uri, "--data", str(others), "--class-map")
    assert (
        f"--class-map maps 'quer' to 'acros', which is not a class of models:/{name}/1. Did you "
        "mean 'across'? Its classes are across, down, wide."
        in eyevsai(*on_others, str(tmp_path / "wrong.toml"), code=2).stderr
    )
    done = eyevsai(
        "evaluate", "--model-uri", uri, "--data", str(others), "--class-map", str(mapped), "--json"
    )
    found = json.loads(done.stdout)
    assert (found["images"], found["dataset"]) == (12, "others")
    assert "do not cover classes without images: wide" in done.stderr
    other = client.get_run(found["run_id"])
    assert (other.data.tags["eyevsai.job"], other.data.tags["eyevsai.source_run_id"]) == (
        "evaluate",
        run_id,
    )
    assert other.data.metrics["test_accuracy"] == found["metrics"]["accuracy"]
    known = eyevsai(
        "evaluate", "--run", run_id, "--data", str(images), "--corruption-images", "0"
    ).stderr
    assert "images were in the model's train split" in known


def test_a_shallow_model_says_what_it_leans_on(eyevsai: Eyevsai, workplace: Path) -> None:
    run_id = run_of(TRAINED["shallow"])
    eyevsai("evaluate", "--run", run_id, "--corruption-images", "8")
    names = artifacts(run_id, "plots")
    assert "plots/test_importance.png" in names
    assert "plots/test_grad_cam.png" not in names
    assert {"test_importance_hog", "test_importance_color"} <= MlflowClient().get_run(
        run_id
    ).data.metrics.keys()


def test_two_models_on_the_same_images(eyevsai: Eyevsai, images: Path, workplace: Path) -> None:
    first, second = (
        train(eyevsai, images),
        train(eyevsai, images, "--lr", "0.0001", "--epochs", "1"),
    )
    assert (
        f"was not evaluated: eyevsai evaluate {NAME}/"
        in eyevsai("compare", first, second, code=2).stderr
    )
    for each in (first, second):
        eyevsai("evaluate", "--run", each, "--corruption-images", "0")
    found = json.loads(eyevsai("compare", first, second, "--json").stdout)
    assert found["settings"] == {
        "lr": [0.006, 0.0001],
        "epochs": [8, 1],
        "warmup_epochs": [1.6, 0.2],  # a fifth of the epochs
    }
    accuracies = [model["metrics"]["accuracy"] for model in found["models"]]
    (pair,) = found["pairs"]
    assert len(pair["only_first"]) - len(pair["only_second"]) == round(
        (accuracies[0] - accuracies[1]) * found["images"]
    )
    assert pair["difference"]["only_first"] == len(pair["only_first"])
    said = eyevsai("compare", first, f"models:/{NAME}/3").stdout
    assert "McNemar's exact test" in said
    runs = f"%5B%22{first}%22,%22{second}%22%5D"
    link = f"#/compare-runs?runs={runs}&experiments=%5B%221%22%5D&workflowType=machine_learning"
    assert said.endswith(f"see it with: eyevsai ui\nhttp://127.0.0.1:5000/{link}\n")
    page = (workplace / "comparison.html").read_text()
    words = check_self_contained(page).text
    for model in found["models"]:
        accuracy = f"{100 * model['metrics']['accuracy']:.1f} %"
        assert f"{model['title']} run {model['run_id']} {accuracy} 95 % interval" in words
    assert page.count("data:image/jpeg") == min(12, len(pair["only_first"])) + min(
        12, len(pair["only_second"])
    )
    images.rename(images.with_name("moved"))
    try:
        done = eyevsai("compare", first, second)
    finally:
        images.with_name("moved").rename(images)
    assert "comparison.html shows no images" in done.stderr
    assert "McNemar's exact test" in done.stdout
    assert "data:image" not in (workplace / "comparison.html").read_text()
    third = train(eyevsai, images, "--split-seed", "5", "--epochs", "1")
    eyevsai("evaluate", "--run", third, "--corruption-images", "0")
    assert "were evaluated on different images" in eyevsai("compare", first, third, code=2).stderr
    assert "at least two different runs" in eyevsai("compare", first, code=2).stderr


def test_a_split_that_is_not_the_runs_is_refused(eyevsai: Eyevsai, run_id: str) -> None:
    client = MlflowClient()
    table = read(run_id, "split.tsv")
    client.log_text(run_id, table.replace("\ntest\t", "\ntrain\t", 1), "split.tsv")
    assert (
        "The split of stripes changed since" in eyevsai("evaluate", "--run", run_id, code=2).stderr
    )
    client.log_text(run_id, table, "split.tsv")
    eyevsai("evaluate", "--run", run_id, "--corruption-images", "0")


@pytest.mark.requirement(23)
def test_a_corrupt_artifact_is_not_evaluated(
    eyevsai: Eyevsai, run_id: str, workplace: Path
) -> None:
    spoil(workplace, run_id)
    done = eyevsai("evaluate", "--run", run_id, code=2)
    assert "its SHA-256 differs" in done.stderr
    assert not any(name.startswith("test_") for name in MlflowClient().get_run(run_id).data.metrics)


@pytest.mark.processes("images are decoded in forks")
def test_what_cannot_be_evaluated_is_refused(
    eyevsai: Eyevsai, images: Path, workplace: Path, tmp_path: Path
) -> None:
    run_id = train(eyevsai, images, "--test-fraction", "0", "--epochs", "1")
    name = NAME
    for flags, said in [
        (("--run", run_id), "The test split of stripes is empty"),
        (("--run", "nothing"), "There is no run 'nothing'"),
        (("--run", MlflowClient().create_run("0").info.run_id), "has no model: it is RUNNING"),
        (("--model-uri", f"models:/{name}/9"), "Its versions: 2, 1."),
        (("--model-uri", f"models:/{name}@best"), "has no alias 'best'. Its aliases: none."),
        (("--model-uri", f"models:/{name}/Production"), "is in the stage Production. Its versions"),
        (("--model-uri", "models:/stripes-deep_v1-standart/1"), f"Did you mean '{name}'?"),
        (
            ("--model-uri", name),
            f"but no version of it. Its versions: 2, 1. Use one of them, such as {name}/2",
        ),
        (("--run", run_id, "--data", str(tmp_path / "none")), "There is no folder"),
        ((), "A model is required"),
    ]:
        done = eyevsai("evaluate", *flags, code=2)
        assert said in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
    call = runs_of("evaluate")
    assert not call  # what is wrong is found before a run is made

    extra = write_images(tmp_path / "grown" / "stripes", COUNTS)
    grown = train(eyevsai, extra, "--epochs", "1")
    write_images(extra, {"across": 3}, start=300)
    assert "The images of stripes changed" in eyevsai("evaluate", "--run", grown, code=2).stderr
    spoil(workplace, grown)
    assert (
        "SHA-256 differs"
        in eyevsai("evaluate", "--run", grown, "--data", str(images), code=2).stderr
    )


def spoil(workplace: Path, run_id: str) -> None:
    """Flip a bit of a run's weights."""
    (weights,) = workplace.rglob(f"{model_id(run_id)}/artifacts/data/model/model.safetensors")
    spoiled = bytearray(weights.read_bytes())
    spoiled[-1] ^= 1
    weights.write_bytes(spoiled)


def model_id(run_id: str) -> str:
    return MlflowClient().get_run(run_id).outputs.model_outputs[0].model_id
