"""A model leaves, is asked, and is served, as a person does it."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from PIL import Image

import eyevsai as package
from eyevsai.cli.main import main
from eyevsai.formats.onnx import Onnx, OnnxRuntime
from eyevsai.formats.openvino import OpenVino
from eyevsai.models.learner import Learner
from eyevsai.serving.pyfunc import SERVED
from eyevsai.tracking import run, run_lifecycle
from eyevsai.workflows.trained_model import TrainedModel
from tests.conftest import (
    ROOT,
    SMALL_NETWORK,
    TRAINED,
    Eyevsai,
    copy_store,
    copy_trained,
    draw_image,
    experiments,
    find_port,
    write_images,
)
from tests.e2e.conftest import MlflowRun

MODEL, VERSION = TRAINED["deep_v1"], f"models:/{TRAINED['deep_v1']}/1"


@pytest.fixture
def workplace(trained_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the trained store, as the current folder."""
    return copy_trained(trained_store, tmp_path / "project", monkeypatch)


@pytest.fixture
def images(workplace: Path) -> Path:
    return workplace / "data" / "stripes"


@pytest.fixture
def trained(workplace: Path) -> str:
    """Return the run of VERSION."""
    return str(MlflowClient().get_model_version(MODEL, "1").run_id)


def runs_of(job: str) -> list[Run]:
    return [
        run
        for run in MlflowClient().search_runs(experiments())
        if run.data.tags.get("eyevsai.job") == job
    ]


def artifacts(run_id: str, folder: str) -> set[str]:
    return {Path(artifact.path).name for artifact in MlflowClient().list_artifacts(run_id, folder)}


def tags() -> dict[str, str]:
    return dict(MlflowClient().get_model_version(MODEL, "1").tags)


def test_exported_version_is_served_by_its_onnx_file(
    entry_point: Eyevsai, trained: str, images: Path, workplace: Path
) -> None:
    before = package.load(VERSION)
    picture = next((images / "down").iterdir())
    formats = "format=onnx,openvino,pytorch"
    entry_point(
        "export", "-P", f"model_uri={VERSION}", "-P", formats, "-P", f"output={workplace / 'out'}"
    )
    (call,) = runs_of("export")
    assert (
        call.info.status,
        call.data.tags["eyevsai.source_run_id"],
        call.data.tags["model_uri"],
    ) == ("FINISHED", trained, VERSION)
    assert artifacts(trained, "exports") == {"onnx", "openvino", "pytorch"}
    assert artifacts(trained, "exports/onnx") == {"model.onnx", "manifest.json", "example.py"}
    assert tags()["export.onnx"] == tags()["export.openvino"] == "passed"
    assert float(tags()["export.onnx.max_difference"]) <= 1e-5

    after = package.load(VERSION)
    assert (before.metadata["format"], after.metadata["format"]) == (None, "onnx")
    said = before.predict(picture)
    locations = [
        f"runs:/{trained}/exports/openvino",
        str(workplace / "out" / f"{MODEL}-1" / "pytorch" / "model.pth"),
    ]
    for classifier in (after, *map(package.load, locations)):
        answer = classifier.predict(picture)
        assert answer.label == said.label == "down"
        assert answer.probability == pytest.approx(said.probability, abs=1e-5)
    table = mlflow.pyfunc.load_model(VERSION).predict(pd.DataFrame({"image": [str(picture)]}))
    assert table["probability"][0] == after.predict(picture).probability


@pytest.mark.requirement(21)
def test_an_export_that_says_something_else_is_refused(
    trained: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Wrong(OnnxRuntime):
        def predict_proba(self, images):  # type: ignore[no-untyped-def]
            return super().predict_proba(images) + 1e-3

    monkeypatch.setattr(Onnx, "open", lambda self, folder: Wrong(folder / "model.onnx"))
    with pytest.raises(SystemExit) as ended:
        main(["export", "--run", trained, "--format", "onnx,pt2"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"The export of {VERSION} as onnx is rejected. From the same resized pixels" in said
    assert "Traceback" not in said
    assert runs_of("export")[0].info.status == "FAILED"
    assert (tags()["export.onnx"], tags()["export.pt2"]) == ("refused", "passed")
    assert float(tags()["export.onnx.max_difference"]) == pytest.approx(1e-3, rel=0.01)
    assert artifacts(trained, "exports") == {"pt2"}
    assert package.load(VERSION).metadata["format"] is None


def test_mistakes_are_said_before_anything_is_written(
    eyevsai: Eyevsai, trained: str, tmp_path: Path
) -> None:
    (tmp_path / "out" / f"{MODEL}-1" / "onnx").mkdir(parents=True)
    for flags, reason in [
        (("--run", trained, "--format", "onxn"), "Did you mean 'onnx'?"),
        ((), "A model is required"),
        (("--run", "f" * 32), "There is no run"),
        (("--run", trained, "--output", str(tmp_path / "out")), "exists already"),
        (("--run", trained, "--parity-images", "0"), "--parity-images 0 is not allowed"),
        (("--run", trained, "--format", "tflite"), "ONNX Runtime Mobile runs the onnx export"),
    ]:
        said = eyevsai("export", *flags, code=2).stderr
        assert reason in said
        assert "Traceback" not in said
    assert runs_of("export") == []


def test_predict_says_what_files_show(
    eyevsai: Eyevsai, trained: str, images: Path, tmp_path: Path
) -> None:
    del trained
    folder = tmp_path / "mixed"
    (folder / "deeper").mkdir(parents=True)
    for number in range(70):  # more than one process takes at a time
        Image.fromarray(draw_image(number % 3, number)).save(
            folder / "deeper" / f"{number:02d}.png"
        )
    (folder / "broken.jpg").write_text("no image")
    done = eyevsai("predict", VERSION, str(folder), "--json", "--top-k", "2", code=1)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers[0] == {
        "image": str(folder / "broken.jpg"),
        "error": "is not an image in a known format.",
    }
    assert "Error: 1 of 71 images cannot be read." in done.stderr
    classifier = package.load(VERSION)
    for number, answer in enumerate(answers[1:]):
        picture = folder / "deeper" / f"{number:02d}.png"
        expected = classifier.predict(picture)
        assert (answer["image"], answer["label"]) == (str(picture), expected.label)
        assert answer["probabilities"] == pytest.approx(dict(expected.top(2)), abs=1e-6)
    assert len(answers) == 71

    picture = next((images / "wide").iterdir())
    label, probability = eyevsai("predict", VERSION, str(picture)).stdout.strip().split("\t")[1:]
    assert (label, float(probability)) == (
        "wide",
        pytest.approx(classifier.predict(picture).probability, abs=1e-4),
    )
    least_certain = min(answers[1:], key=lambda answer: max(answer["probabilities"].values()))
    assert (
        "\tunsure\t"
        in eyevsai("predict", VERSION, least_certain["image"], "--threshold", "1").stdout
    )
    assert (
        "There is no image file or folder"
        in eyevsai("predict", VERSION, "nowhere.png", code=2).stderr
    )
    # the current folder is not predicted
    assert "An image path is empty" in eyevsai("predict", VERSION, "", code=2).stderr
    assert "The model's name is empty" in eyevsai("predict", "", str(picture), code=2).stderr
    assert (
        "Did you mean"
        in eyevsai("predict", "models:/stripes-deep_v1-standart/1", str(picture), code=2).stderr
    )


class Input(io.TextIOWrapper):
    """Standard input that is no terminal."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8")


def test_predict_takes_names_from_standard_input(
    eyevsai: Eyevsai, trained: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del trained
    folder = workplace / "some pictures"
    folder.mkdir()
    for name in ("one.png", "näme\twith\x1b[31m tab.png"):
        Image.fromarray(draw_image(0, 1)).save(folder / name)
    monkeypatch.setenv("HOME", str(workplace))

    def predict_from_input(text: bytes) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", Input(text))
        done = eyevsai("predict", VERSION, "-", code=None)
        return done.returncode, done.stdout, done.stderr

    said = predict_from_input(
        f"{folder}\r\n\r\n~/some pictures/one.png\r\n{folder}/none.png".encode()
    )
    assert said[0] == 1, said[2]
    assert [line.split("\t")[0] for line in said[1].splitlines()] == [
        f"{folder}/näme\\twith\\x1b[31m tab.png",
        f"{folder}/one.png",
        f"{folder}/one.png",
        f"{folder}/none.png",
    ]
    answers = eyevsai("predict", VERSION, str(folder), "--json").stdout.splitlines()
    assert json.loads(answers[0])["image"] == f"{folder}/näme\twith\x1b[31m tab.png"
    for text, reason in [
        (b"", "Standard input is empty: - reads paths of files and folders, one per line."),
        (b"\n \r\n", "Standard input is empty"),
        (
            (folder / "one.png").read_bytes(),
            "Standard input is not UTF-8 text: - reads paths",
        ),
    ]:
        code, out, err = predict_from_input(text)
        assert (code, out) == (2, "")
        assert reason in err
        assert "Traceback" not in err


def test_predict_opens_what_could_hold_code_when_it_is_trusted(
    eyevsai: Eyevsai, trained: str, images: Path, workplace: Path
) -> None:
    eyevsai("export", "--run", trained, "--format", "pt2", "--output", str(workplace / "out"))
    folder, picture = (
        str(workplace / "out" / f"{MODEL}-1" / "pt2"),
        str(next((images / "down").iterdir())),
    )
    said = eyevsai("predict", folder, picture, code=2).stderr
    assert "use predict --trusted" in said
    assert eyevsai("predict", folder, picture, "--trusted").stdout.split("\t")[1] == "down"


@pytest.fixture(params=["in_thread", pytest.param("in_process", marks=pytest.mark.slow)])
def server(
    eyevsai: Eyevsai,
    trained: str,
    workplace: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """Serve VERSION by MLflow's scoring server, in a thread or as `mlflow models serve`; yield its
    URL.
    """
    eyevsai("export", "--run", trained)
    serve = (
        serve_in_thread(monkeypatch)
        if request.param == "in_thread"
        else serve_in_process(workplace)
    )
    with serve as url:
        yield url


@contextmanager
def serve_in_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import uvicorn
    from mlflow.pyfunc import scoring_server

    monkeypatch.setenv(SERVED, VERSION)  # as `mlflow models serve` does
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
    app, port = (
        scoring_server.init(scoring_server.load_model_with_mlflow_config(VERSION)),
        find_port(),
    )
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="critical"))
    thread = Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def serve_in_process(workplace: Path) -> Iterator[str]:
    port = find_port()
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "-m",
        VERSION,
        "--env-manager",
        "local",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    process = subprocess.Popen(
        command,
        cwd=workplace,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5)
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, 15)
        process.wait(20)


def ask(url: str, body: Any) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_served_version_answers_as_predict_does(server: str, images: Path) -> None:
    pictures = [next((images / name).iterdir()) for name in ("across", "down", "wide")]
    records = [{"image": base64.b64encode(picture.read_bytes()).decode()} for picture in pictures]
    code, answer = ask(server, {"dataframe_records": records})
    assert code == 200
    classifier = package.load(VERSION)
    assert classifier.metadata["format"] == "onnx"
    for found, expected in zip(
        answer["predictions"], classifier.predict_batch(pictures), strict=True
    ):
        assert found["label"] == expected.label
        assert found["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    with Image.open(pictures[0]) as picture:
        lists = np.asarray(picture.convert("RGB")).tolist()
    code, pixels = ask(server, {"dataframe_records": [{"image": lists}]})
    assert (code, pixels["predictions"][0]["label"]) == (200, answer["predictions"][0]["label"])
    for body, reason in [
        (
            {"dataframe_records": [{"image": str(pictures[0])}]},
            "A served model does not accept paths",
        ),
        ({"dataframe_records": [{"image": "/etc/passwd"}]}, "A served model does not accept paths"),
        (
            {"dataframe_records": [{"image": base64.b64encode(b"no image").decode()}]},
            "not an image in a known format",
        ),
        ({"dataframe_records": [{"picture": "AAAA"}]}, "missing inputs"),
        (
            {"dataframe_records": [*records, {"image": "ä"}]},
            "Record 4 of 4: The image 'ä' is not base64",
        ),
        (
            {"dataframe_records": [{"image": [[1, 2], [3]]}]},
            "Record 1 of 1: An image must be base64, or H lists of W lists",
        ),
        ({"dataframe_records": [{"image": [[[300, 0, 0]]]}]}, "from 0 to 255, not 300."),
        (
            {"dataframe_records": [{"image": [[[0.5, 0.2, 1.9]]]}]},
            "whole numbers from 0 to 255, not 0.5.",
        ),
        ({"dataframe_records": [{"image": [[["a", "b", "c"]]]}]}, "not lists of other values"),
        (
            {"inputs": {"image": [records[0]["image"]]}},
            'Send each image as a record: {"dataframe_records"',
        ),
        (b"{torn", "valid JSON"),
    ]:
        code, answer = ask(server, body)
        assert code == 400
        assert reason in answer["message"]
        assert "Traceback" not in json.dumps(answer)
        assert str(ROOT) not in json.dumps(answer)


def test_a_pruned_version_is_smaller_and_leaves(eyevsai: Eyevsai, trained: str) -> None:
    done = eyevsai("export", "--run", trained, "--prune", "0.5", "--prune-epochs", "2")
    assert f"models:/{MODEL}/2 is {VERSION} pruned" in done.stderr
    version = MlflowClient().get_model_version(MODEL, "2")
    assert version.tags["eyevsai.pruned_from"] == VERSION
    assert float(version.tags["prune.parameters_after"]) < 0.6 * float(
        version.tags["prune.parameters_before"]
    )
    assert version.tags["export.onnx"] == "passed"
    pruned = MlflowClient().get_run(version.run_id or "")
    assert pruned.info.status == "FINISHED"
    assert pruned.data.tags["eyevsai.job"] == "train"
    assert len(MlflowClient().get_metric_history(pruned.info.run_id, "valid/accuracy")) == 2
    for name in ("accuracy", "parameters", "mflops", "size_bytes", "images_per_s"):
        assert {f"prune_{name}_before", f"prune_{name}_after"} <= pruned.data.metrics.keys()
    assert package.load(f"models:/{MODEL}/2").metadata["format"] == "onnx"
    figures = json.loads(eyevsai("evaluate", "--model-uri", f"models:/{MODEL}/2", "--json").stdout)[
        "metrics"
    ]
    assert 0 <= figures["accuracy"] <= 1
    said = eyevsai("export", "--run", trained, "--prune", "0.01", code=2).stderr
    assert "no layer is wide enough to lose 8" in said


@pytest.mark.slow
def test_the_best_of_each_dataset_are_packaged(
    mlflow_run: MlflowRun, eyevsai: Eyevsai, trained: str, images: Path, workplace: Path
) -> None:
    other = write_images(workplace / "others" / "spots", {"across": 20, "down": 20})
    eyevsai("train", "--data", str(other), *SMALL_NETWORK, "--epochs", "8")
    eyevsai(
        "train", "--data", str(images), "--model", "shallow", "--image-size", "32", "--threads", "1"
    )
    client, shallow = MlflowClient(), "models:/stripes-shallow-svm_hog_lbp/1"
    worse = client.get_model_version("stripes-shallow-svm_hog_lbp", "1").run_id or ""
    client.log_metric(trained, "best_valid_accuracy", 0.5)
    client.log_metric(worse, "best_valid_accuracy", 0.4)
    mlflow_run(
        "export", "-P", "package=game", "-P", "format=onnx", "-P", f"output={workplace / 'out'}"
    )

    folder = workplace / "out" / "game"
    info = json.loads((folder / "deployment_info.json").read_text())
    assert [(model["dataset"], model["model_uri"]) for model in info["models"]] == [
        ("spots", "models:/spots-deep_v1-standard/1"),
        ("stripes", VERSION),
    ]
    for model in info["models"]:
        classifier = package.load(str(folder / model["formats"]["onnx"]["folder"]))
        assert list(classifier.classes) == model["classes"]
        assert model["formats"]["onnx"]["metrics"]["top1_agreement"] == 1
    assert "python example.py IMAGE" in (folder / "README.md").read_text()
    (call,) = runs_of("export")
    assert (call.info.status, call.data.tags["package"]) == ("FINISHED", "game")
    assert "deployment_info.json" in artifacts(call.info.run_id, "packages/game")

    # what was evaluated goes before what valid says
    client.log_metric(worse, "test_accuracy", 0.45)
    eyevsai("export", "--package", "other", "--per-dataset", "2")
    models = json.loads((workplace / "other" / "deployment_info.json").read_text())["models"]
    assert [
        (model["model_uri"], model["metric"]) for model in models if model["dataset"] == "stripes"
    ] == [(shallow, "test_accuracy"), (VERSION, "best_valid_accuracy")]
    assert not [each for each in workplace.iterdir() if each.name.startswith(".other")]
    client.set_tag(worse, "eyevsai.dataset_digest", "of images that are gone")
    done = eyevsai("export", "--package", "third")
    assert "Left out: The images of stripes changed since" in done.stderr
    models = json.loads((workplace / "third" / "deployment_info.json").read_text())["models"]
    assert [model["model_uri"] for model in models if model["dataset"] == "stripes"] == [VERSION]
    for flags, reason in [
        (("--package", "other"), "exists already"),
        (("--package", "../out"), "is not a valid folder name"),
        (("--package", "x", "--run", trained), "--package selects the best models itself"),
        (("--package", "x", "--prune", "0.3"), "omit --package"),
    ]:
        said = eyevsai("export", *flags, code=2).stderr
        assert reason in said
        assert "Traceback" not in said


def test_there_is_nothing_to_package(
    eyevsai: Eyevsai, workplace: Path, template_store: Path
) -> None:
    copy_store(template_store, workplace)
    assert "the store has no trained model" in eyevsai("export", "--package", "game", code=2).stderr
    assert not (workplace / "game").exists()


def test_interrupted_upload_leaves_the_version_as_it_was(
    eyevsai: Eyevsai, trained: str, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest is uploaded last; what is queued is flushed by sync."""
    picture = str(next((images / "down").iterdir()))
    before = eyevsai("predict", VERSION, picture, "--json").stdout
    upload, uploads = MlflowClient.log_model_artifacts, []

    def once(self: MlflowClient, model_id: str, folder: str) -> None:
        if uploads:
            raise ConnectionError("nobody answers")
        uploads.append(folder)
        upload(self, model_id, folder)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_model_artifacts", once)
        for module in (run, run_lifecycle):
            patch.setattr(module, "FLUSH_TIMEOUT_S", 0.5)
        assert (
            "eyevsai sync" in eyevsai("export", "--run", trained, "--format", "onnx", code=3).stderr
        )
    assert "export.onnx" not in tags()
    assert package.load(VERSION).metadata["format"] is None
    assert eyevsai("predict", VERSION, picture, "--json").stdout == before
    eyevsai("sync")
    assert package.load(VERSION).metadata["format"] == "onnx"
    assert tags()["export.onnx"] == "passed"


KILLED_BEFORE_THE_MANIFEST = """
import os, signal, sys
from mlflow import MlflowClient
from eyevsai.cli.main import main
upload = MlflowClient.log_model_artifacts
def once(self, model_id, folder):
    upload(self, model_id, folder)
    os.kill(os.getpid(), signal.SIGKILL)
MlflowClient.log_model_artifacts = once
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_killed_export_leaves_the_version_as_it_was(
    eyevsai: Eyevsai, trained: str, images: Path, workplace: Path
) -> None:
    picture = str(next((images / "down").iterdir()))
    before = eyevsai("predict", VERSION, picture, "--json").stdout
    command = [
        sys.executable,
        "-c",
        KILLED_BEFORE_THE_MANIFEST,
        "export",
        "--run",
        trained,
        "--format",
        "onnx",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    assert (
        subprocess.run(command, cwd=workplace, env=env, capture_output=True).returncode
        == -signal.SIGKILL
    )
    assert "export.onnx" not in tags()
    assert package.load(VERSION).metadata["format"] is None
    assert eyevsai("predict", VERSION, picture, "--json").stdout == before

    eyevsai("sync")
    assert package.load(VERSION).metadata["format"] == "onnx"
    assert tags()["export.onnx"] == "passed"


def test_a_format_that_cannot_be_written_does_not_stop_the_others(
    eyevsai: Eyevsai, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: OpenVino, source: object, folder: Path) -> None:
        raise RuntimeError("Check 'shape' failed")

    eyevsai("export", "--run", trained, "--format", "openvino")
    monkeypatch.setattr(OpenVino, "write", fail)
    done = eyevsai("export", "--run", trained, "--format", "openvino,pytorch", code=1)
    assert (
        f"The export of {VERSION} as openvino is rejected. It cannot be written: RuntimeError: "
        "Check 'shape' failed" in done.stderr
    )
    assert (
        f"An earlier export, which passed, is kept: runs:/{trained}/exports/openvino" in done.stderr
    )
    assert "Traceback" not in done.stderr
    assert (tags()["export.openvino"], tags()["export.pytorch"]) == ("passed", "passed")
    assert artifacts(trained, "exports") == {"openvino", "pytorch"}


@pytest.mark.parametrize("failure", ["unwritable", "different"])
@pytest.mark.parametrize("has_passed", [False, True])
def test_a_failed_export_leaves_the_version_as_promotable_as_before(
    eyevsai: Eyevsai, trained: str, monkeypatch: pytest.MonkeyPatch, failure: str, has_passed: bool
) -> None:
    def fail(self: Onnx, source: object, folder: Path) -> None:
        raise RuntimeError("Constraints violated (batch)")

    class Wrong(OnnxRuntime):
        def predict_proba(self, images):  # type: ignore[no-untyped-def]
            return super().predict_proba(images) + 1e-3

    eyevsai("evaluate", "--run", trained)
    Path("promotion.toml").write_text(
        "floor = 0.1\nexports = 'onnx'\n" if has_passed else "floor = 0.1\n"
    )
    if has_passed:
        eyevsai("export", "--run", trained)
    before = tags()
    with monkeypatch.context() as patch:
        if failure == "unwritable":
            patch.setattr(Onnx, "write", fail)
        else:
            patch.setattr(Onnx, "open", lambda self, folder: Wrong(folder / "model.onnx"))
        eyevsai("export", "--run", trained, code=1)
    assert tags().get("export.onnx") == (
        "passed" if has_passed else "refused" if failure == "different" else None
    )
    if has_passed or failure == "unwritable":
        assert tags() == before
    said = eyevsai("promote", MODEL, "--version", "1").stdout
    assert {
        (True, "different"): "exports passed the parity check: onnx",
        (True, "unwritable"): "exports passed the parity check: onnx",
        (False, "different"): "the policy does not require onnx, which failed it",
        (False, "unwritable"): "nothing was exported yet",
    }[has_passed, failure] in said


def test_output_is_checked_before_the_model_is_loaded(
    eyevsai: Eyevsai, trained: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: TrainedModel) -> Learner:
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(TrainedModel, "load", fail)
    (tmp_path / "out" / f"{MODEL}-1" / "onnx").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    for output, formats, reason in [
        ("out", "onnx", "exists already. Move it"),
        ("out", "all", "exists already. Move it"),
        ("file", "onnx", "Choose another --output"),
    ]:
        options = ("--output", str(tmp_path / output), "--format", formats)
        assert reason in eyevsai("export", "--run", trained, *options, code=2).stderr
        with pytest.raises(package.UserError, match=reason):
            package.export(run=trained, output=str(tmp_path / output), format=formats)


def test_results_of_the_parity_check_are_printed_in_words(eyevsai: Eyevsai, trained: str) -> None:
    said = eyevsai("export", "--run", trained, "--format", "onnx").stdout
    assert "images, probabilities differ by at most" in said
    assert "100.00% with the model's class; raw: probabilities differ" in said
    assert "_" not in said.splitlines()[1]


@pytest.mark.slow
def test_an_interrupted_export_ends_killed_and_keeps_only_what_is_whole(
    trained: str, workplace: Path
) -> None:
    command = [
        sys.executable,
        "-m",
        "eyevsai",
        "export",
        "--run",
        trained,
        "--format",
        "onnx,onnx-int8,openvino,pt2",
    ]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=workplace, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "as onnx-int8" in line:
            break
    process.send_signal(signal.SIGTERM)
    said = process.stderr.read()
    assert process.wait(10) == 143, said
    assert "Traceback" not in said
    (call,) = runs_of("export")
    assert call.info.status == "KILLED"
    for name in artifacts(trained, "exports"):
        assert "manifest.json" in artifacts(trained, f"exports/{name}")
    assert "onnx" in artifacts(trained, "exports")
    assert "export.openvino" not in tags()
    assert package.load(VERSION).metadata["format"] == "onnx"


@pytest.mark.requirement(21)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("formats", "model"),
    [
        ("all", ("deep_v1", "--width", "8", "--epochs", "2")),
        ("all", ("deep_v2", "--epochs", "1")),
        ("onnx,openvino", ("shallow",)),
    ],
)
def test_exports_agree_on_photographs(
    eyevsai: Eyevsai, photos: Path, formats: str, model: tuple[str, ...]
) -> None:
    eyevsai(
        "train",
        "--dataset",
        "pets",
        "--image-size",
        "64",
        "--model",
        *model,
        EYEVSAI_DATA=str(photos),
    )
    of_photographs = runs_of("train")[0].info.run_id
    done = eyevsai(
        "export", "--run", of_photographs, "--format", formats, "--json", EYEVSAI_DATA=str(photos)
    )
    for exported in json.loads(done.stdout):
        assert exported["metrics"]["images"] == 80
        assert exported["metrics"]["top1_agreement"] >= 0.98
