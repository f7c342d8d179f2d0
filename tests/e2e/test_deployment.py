"""docs/deployment.md: its programs run with a real export, its configurations fit one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fastapi.testclient import TestClient
from google.protobuf import text_format
from PIL import Image

import eyevsai
from tests.conftest import ROOT, TRAINED, draw_scene, extend_trained, find_port
from tests.e2e.pages import read_page
from tests.e2e.runtime_configs import parse_tensorflow_serving, parse_triton

PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
# onnxruntime-web: `npm install onnxruntime-web` in a folder, whose node_modules this is
NODE_MODULES = os.environ.get("EYEVSAI_TEST_NODE_MODULES")
node_modules = pytest.mark.skipif(
    NODE_MODULES is None, reason="set EYEVSAI_TEST_NODE_MODULES to a folder with onnxruntime-web"
)
NODE = """
import {{ readFileSync }} from "node:fs";
import {{ classify, load }} from "./classify.mjs";
const manifest = JSON.parse(readFileSync("served/manifest.json", "utf8"));
const model = await load(new Uint8Array(readFileSync("served/model.onnx")), manifest);
const pixels = new Uint8ClampedArray(readFileSync("pixels.rgba"));
console.log(JSON.stringify(await classify(model, {{ data: pixels, width: {}, height: {} }})));
"""


def block(name: str) -> str:
    """Return the code block of the page whose first line names a file."""
    found = re.search(rf"```\w+\n(\W*{re.escape(name)}\b.*?)```", PAGE, re.DOTALL)
    assert found, f"the page has no block {name}"
    return found[1]


@pytest.fixture(scope="module")
def export_as(
    trained_store: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Return a function that exports a version with three classes in a format, once."""
    folder = tmp_path_factory.mktemp("deployment") / "project"
    run = extend_trained(trained_store, cache_dir, folder)

    @cache
    def export(name: str) -> Path:
        run("export", f"{TRAINED['deep_v1']}/1", "--format", name, "--output", "exports")
        return folder / "exports" / f"{TRAINED['deep_v1']}-1" / name

    return export


@pytest.fixture(scope="module")
def onnx_export(export_as: Callable[[str], Path]) -> Path:
    return export_as("onnx")


@pytest.fixture
def served(onnx_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with the export `served` and the image `scene.png`, as the current folder."""
    shutil.copytree(onnx_export, tmp_path / "served")
    draw_scene(0, side=75).crop((0, 0, 75, 60)).save(tmp_path / "scene.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def expected(served: Path) -> dict[str, float]:
    """Return the probabilities of the image by `eyevsai.load`."""
    return eyevsai.load(served / "served").predict(served / "scene.png").probabilities


@pytest.fixture
def v2_server(served: Path) -> Iterator[str]:
    """Answer requests of the KServe protocol and of TensorFlow Serving with the export."""
    session = onnxruntime.InferenceSession(served / "served" / "model.onnx")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            is_v2 = self.path == "/v2/models/digits/infer"
            assert is_v2 or self.path == "/v1/models/digits:predict"
            if is_v2:
                (tensor,) = body["inputs"]
                assert (tensor["name"], tensor["datatype"]) == ("images", "UINT8")
                images = np.array(tensor["data"], np.uint8).reshape(tensor["shape"])
            else:
                images = np.array(body["instances"], np.uint8)
            (result,) = session.run(None, {"images": images})
            output = {"name": "probabilities", "data": result.ravel().tolist()}
            answer = {"outputs": [output]} if is_v2 else {"predictions": result.tolist()}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", find_port()), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def run_program(name: str, *arguments: str) -> None:
    before = sys.argv
    sys.argv = [name, *arguments]
    try:
        exec(compile(block(name), name, "exec"), {"__name__": "__main__"})
    finally:
        sys.argv = before


def test_fastapi_program_answers_requests(served: Path, expected: dict[str, float]) -> None:
    names: dict[str, Any] = {"__name__": "app"}
    exec(compile(block("app.py"), "app.py", "exec"), names)
    client = TestClient(names["app"])
    response = client.post("/predict", content=(served / "scene.png").read_bytes())
    assert response.status_code == 200
    answer = response.json()
    assert answer["label"] == max(expected, key=expected.__getitem__)
    assert answer["probabilities"] == pytest.approx(expected, abs=1e-3)
    assert client.post("/predict", content=b"no image").status_code == 400
    large = b"x" * (names["MAX_BYTES"] + 1)
    assert client.post("/predict", content=large).status_code == 413


@pytest.mark.parametrize("program", ["client.py", "tf_client.py"])
def test_client_sends_what_the_server_reads(
    program: str, v2_server: str, expected: dict[str, float], capsys: pytest.CaptureFixture[str]
) -> None:
    run_program(program, v2_server, "digits", "scene.png")
    values = json.loads(capsys.readouterr().out)
    assert values == pytest.approx(list(expected.values()), abs=1e-3)


def test_triton_configuration_fits_the_export(onnx_export: Path) -> None:
    config = parse_triton(block("triton/digits/config.pbtxt"))
    session = onnxruntime.InferenceSession(onnx_export / "model.onnx")
    (tensor,), (output,) = config.input, config.output
    (image,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (tensor.name, output.name) == (image.name, probabilities.name)
    assert (tensor.data_type, image.type) == (2, "tensor(uint8)")
    assert (output.data_type, probabilities.type) == (11, "tensor(float)")
    # without the batch; -1 is any number
    assert [-1 if isinstance(each, str) else each for each in image.shape[1:]] == list(tensor.dims)
    assert list(output.dims) == [10]  # the digits
    assert config.max_batch_size > 1
    assert isinstance(image.shape[0], str)


def test_configuration_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(text_format.ParseError):
        parse_triton('name: "digits" max_batch: 1')
    with pytest.raises(text_format.ParseError):
        parse_tensorflow_serving('model_config_list { config { path: "/models" } }')


def test_tensorflow_serving_configuration_is_valid() -> None:
    (model,) = parse_tensorflow_serving(block("tfserving/models.config")).model_config_list.config
    assert (model.name, model.base_path, model.model_platform) == (
        "digits",
        "/models/digits",
        "tensorflow",
    )
    assert "tfserving/digits/1" in PAGE


@pytest.mark.slow
def test_openvino_configuration_gives_the_predictions_of_the_model(
    export_as: Callable[[str], Path], served: Path, expected: dict[str, float]
) -> None:
    openvino = pytest.importorskip("openvino")
    found = re.search(r"`ovms/config.json`:\n\n```json\n(.*?)```", PAGE, re.DOTALL)
    assert found
    ((model,),) = json.loads(found[1]).values()
    config = model["config"]
    assert (config["name"], config["base_path"]) == ("digits", "/models/digits")
    compiled = openvino.Core().compile_model(
        export_as("openvino") / "model.xml", "CPU", config["plugin_config"]
    )
    images = np.asarray(Image.open(served / "scene.png"))[None]
    probabilities = compiled({"images": images})["probabilities"]
    assert probabilities[0] == pytest.approx(list(expected.values()), abs=1e-3)


@pytest.mark.slow
def test_serving_signature_takes_the_request_of_the_client(
    export_as: Callable[[str], Path],
) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    folder = export_as("tensorflow")
    loaded = tensorflow.saved_model.load(str(folder / "saved_model"))
    signature = loaded.signatures["serving_default"]
    image = np.asarray(draw_scene(0, side=75))
    expected = eyevsai.load(folder, trusted=True).predict(image).probabilities
    output = signature(images=tensorflow.constant(image[None].tolist(), tensorflow.uint8))
    assert output["probabilities"].numpy()[0] == pytest.approx(list(expected.values()), abs=1e-3)


@pytest.mark.slow
def test_mobile_conversion_keeps_the_predictions(served: Path, expected: dict[str, float]) -> None:
    (command,) = [
        each.text
        for each in read_page("docs/deployment.md", PAGE).commands
        if "convert_onnx_models_to_ort" in each.text
    ]
    assert command == "python -m onnxruntime.tools.convert_onnx_models_to_ort mobile"
    shutil.copytree("served", "mobile")
    subprocess.run([sys.executable, *command.split()[1:]], check=True, capture_output=True)
    session = onnxruntime.InferenceSession("mobile/model.ort")
    images = np.asarray(Image.open("scene.png"))[None]
    (probabilities,) = session.run(None, {"images": images})
    assert probabilities[0] == pytest.approx(list(expected.values()), abs=1e-3)
    assert Path("mobile/required_operators.config").is_file()


def test_kotlin_class_uses_the_names_of_the_export(onnx_export: Path) -> None:
    code = block("Classifier.kt")
    session = onnxruntime.InferenceSession(onnx_export / "model.onnx")
    (image,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert f'mapOf("{image.name}" to images)' in code
    assert f'result.get("{probabilities.name}")' in code
    manifest = json.loads((onnx_export / "manifest.json").read_text("utf-8"))
    assert manifest["onnx"]["min_onnxruntime"] == "1.14"
    assert "1.14 or later" in " ".join(PAGE.split())


def test_script_of_the_browser_is_valid(served: Path) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (served / "classify.mjs").write_text(block("classify.mjs"), encoding="utf-8")
    subprocess.run(["node", "--check", "classify.mjs"], check=True, timeout=60)


@node_modules
def test_script_of_the_browser_classifies_in_node(served: Path, expected: dict[str, float]) -> None:
    (served / "node_modules").symlink_to(str(NODE_MODULES))
    (served / "classify.mjs").write_text(block("classify.mjs"), encoding="utf-8")
    image = Image.open("scene.png").convert("RGBA")
    (served / "pixels.rgba").write_bytes(image.tobytes())
    (served / "run.mjs").write_text(NODE.format(*image.size), encoding="utf-8")
    done = subprocess.run(
        ["node", "run.mjs"], check=True, capture_output=True, text=True, timeout=120
    )
    ranked = json.loads(done.stdout)
    assert dict(ranked) == pytest.approx(expected, abs=1e-3)
    values = [value for _, value in ranked]
    assert values == sorted(values, reverse=True)


@pytest.mark.slow
@node_modules
def test_page_of_the_browser_classifies_a_file(served: Path, expected: dict[str, float]) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    (served / "node_modules").symlink_to(str(NODE_MODULES))
    for name in ("classify.mjs", "index.html"):
        (served / name).write_text(block(name), encoding="utf-8")
    port = find_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/index.html")
            page.wait_for_function(
                "document.querySelector('input').onchange !== null", timeout=60_000
            )
            page.set_input_files("input", served / "scene.png")
            page.wait_for_function(
                "document.querySelector('pre').textContent !== ''", timeout=60_000
            )
            text = page.inner_text("pre")
            browser.close()
    finally:
        server.terminate()
        server.wait(10)
    shown = {name: float(value) for name, value in (line.split(",") for line in text.splitlines())}
    assert shown == pytest.approx(expected, abs=1e-3)
