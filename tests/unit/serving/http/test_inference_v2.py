from __future__ import annotations

import base64
import io
import json
import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from eyevsai.serving.http import inference_v2
from eyevsai.serving.http.app import build_app
from eyevsai.serving.http.errors import RequestError
from eyevsai.serving.http.security_settings import LimitSettings
from eyevsai.serving.http.v2_tensors import _pack, _unpack, parse_infer
from tests.unit.serving.http.conftest import CLASSES, Bench, make_image, make_version

LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/stripes/infer"
FILES = [make_image(0), make_image(1)]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(make_version(3), make_version(4))


@pytest.fixture(scope="module")
def client(bench: Bench) -> Iterator[TestClient]:
    limits = LimitSettings(max_images=10, max_megapixels=1)
    app = build_app(bench.service, routers=[inference_v2.make_router(bench.service, limits)])
    with TestClient(app) as client:
        yield client


def tensor(**values: Any) -> dict[str, Any]:
    data = [base64.b64encode(file).decode() for file in FILES]
    return {"name": "image", "shape": [2], "datatype": "BYTES", "data": data} | values


def infer(client: TestClient, path: str = INFER, **request: Any) -> dict[str, Any]:
    response = client.post(path, json={"inputs": [tensor()]} | request)
    assert response.status_code == 200, response.text
    return dict(response.json())


def by_name(response: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output for output in response["outputs"]}


def test_base64_files_in_json(client: TestClient, bench: Bench) -> None:
    response = infer(client, id="a-1")
    assert (response["model_name"], response["model_version"], response["id"]) == (
        "stripes",
        "3",
        "a-1",
    )
    assert response["parameters"] == {"classes": list(CLASSES)}
    outputs = by_name(response)
    assert outputs["label"]["shape"] == [2]
    assert outputs["probabilities"]["shape"] == [2, 3]
    rows = np.array(outputs["probabilities"]["data"]).reshape(2, 3)
    assert [CLASSES[index] for index in rows.argmax(axis=1)] == outputs["label"]["data"]
    direct = [bench.table.production.predict(file).row for file in FILES]  # type: ignore[union-attr]
    np.testing.assert_allclose(rows, direct, atol=1e-6)


@pytest.mark.parametrize("nested", [True, False])
def test_pixels_give_the_probabilities_of_the_file(client: TestClient, nested: bool) -> None:
    image = np.asarray(Image.open(io.BytesIO(FILES[0])))
    data = image.tolist() if nested else image.ravel().tolist()
    pixels = tensor(shape=list(image.shape), datatype="UINT8", data=data)
    with_batch = tensor(shape=[1, *image.shape], datatype="UINT8", data=[data])
    expected = by_name(infer(client))["probabilities"]["data"][:3]
    for each in (pixels, with_batch):
        response = infer(client, inputs=[each])
        assert by_name(response)["probabilities"]["data"] == pytest.approx(expected, abs=1e-6)


def send_binary(client: TestClient, request: dict[str, Any], binary: bytes) -> Any:
    header = json.dumps(request).encode()
    return client.post(INFER, content=header + binary, headers={LENGTH: str(len(header))})


@pytest.mark.parametrize("kind", ["BYTES", "BYTES base64", "UINT8"])
def test_binary_tensors_both_ways(client: TestClient, kind: str) -> None:
    elements = [base64.b64encode(file) if "base64" in kind else file for file in FILES]
    binary = b"".join(struct.pack("<I", len(each)) + each for each in elements)
    shape = [2]
    if kind == "UINT8":
        pixels = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in FILES[:1] * 2])
        binary, shape = pixels.tobytes(), list(pixels.shape)
    parameters: dict[str, Any] = {"binary_data_size": len(binary)}
    if "base64" in kind:
        parameters["content_type"] = "base64"
    sent = {"name": "image", "shape": shape, "datatype": kind[:5], "parameters": parameters}
    request = {"inputs": [sent], "parameters": {"binary_data_output": True}}
    response = send_binary(client, request, binary)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/octet-stream"
    end = int(response.headers[LENGTH])
    outputs = by_name(json.loads(response.content[:end]))
    sizes = [each["parameters"]["binary_data_size"] for each in outputs.values()]
    assert end + sum(sizes) == len(response.content)
    labels = _unpack(response.content[end : end + sizes[0]])
    rows = np.frombuffer(response.content[end + sizes[0] :], "<f4").reshape(2, 3)
    assert [CLASSES[index].encode() for index in rows.argmax(axis=1)] == labels
    expected = by_name(infer(client))["probabilities"]["data"][:3]
    assert rows[0] == pytest.approx(expected, abs=1e-6)


def test_outputs_are_those_that_were_asked_for(client: TestClient) -> None:
    asked = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}]
    response = client.post(INFER, json={"inputs": [tensor()], "outputs": asked})
    end = int(response.headers[LENGTH])
    first, second = json.loads(response.content[:end])["outputs"]
    assert (first["name"], first["parameters"]) == ("probabilities", {"binary_data_size": 24})
    assert (second["name"], len(second["data"])) == ("label", 2)
    assert len(response.content) == end + 24
    only = infer(client, outputs=[{"name": "label", "parameters": {"binary_data": False}}])
    assert [output["name"] for output in only["outputs"]] == ["label"]


def test_named_version_answers_and_is_not_counted(client: TestClient, bench: Bench) -> None:
    bench.answers.clear()
    response = infer(client, "/v2/models/stripes/versions/4/infer")
    assert response["model_version"] == "4"
    assert [(answer.arm, answer.version) for answer in bench.answers] == [("named", 4)] * 2


def test_metadata_and_readiness(client: TestClient) -> None:
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/stripes", "/v2/models/stripes/versions/4"):
        metadata = client.get(path).json()
        assert metadata["versions"] == ["3", "4"]
        assert metadata["outputs"][1]["shape"] == [-1, 3]
        assert client.get(f"{path}/ready").json() == {"name": "stripes", "ready": True}


def test_server_without_a_version_is_not_ready() -> None:
    service = Bench().service
    app = build_app(service, routers=[inference_v2.make_router(service, LimitSettings())])
    with TestClient(app) as client:
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/v2/health/live").status_code == 200
        response = client.post(INFER, json={"inputs": [tensor()]})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/other",
        "/v2/models/Stripes",
        "/v2/models/stripes%00",
        "/v2/models/..%2fstripes",
        "/v2/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/v2/models/stripes/versions/5",
        "/v2/models/stripes/versions/03",
        "/v2/models/stripes/versions/-3",
        "/v2/models/stripes/versions/3.0",
        "/v2/models/stripes/versions/\u0663",
        "/v2/models/stripes/versions/..%2f3",
        "/v2/models/stripes/versions/3%00",
        "/v2/models/stripes/versions/" + "9" * 5000,
        "/v2/models/models:%2fstripes%2f3",
    ],
)
def test_only_loaded_names_are_known(client: TestClient, path: str) -> None:
    for response in (
        client.get(path),
        client.get(f"{path}/ready"),
        client.post(f"{path}/infer", json={"inputs": [tensor()]}),
    ):
        assert response.status_code == 404
        assert len(response.text) < 400


def pixels(**values: Any) -> dict[str, Any]:
    return tensor(datatype="UINT8", shape=[1, 1, 3], data=[1, 2, 3]) | values


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ([], "must be an object"),
        ({}, "must be a list of one tensor"),
        ({"inputs": []}, "must be a list of one tensor"),
        ({"inputs": [tensor(), tensor()]}, "must be a list of one tensor"),
        ({"inputs": ["image"]}, "must be a list of one tensor"),
        ({"inputs": [tensor(name="x")]}, "must be called 'image'"),
        ({"inputs": [tensor(datatype="FP32")]}, "must be BYTES or UINT8"),
        ({"inputs": [tensor(datatype=None)]}, "must be BYTES or UINT8"),
        ({"inputs": [tensor(shape=[3])]}, "has 2 elements"),
        ({"inputs": [tensor(shape=[])]}, "1 to 4 whole numbers"),
        ({"inputs": [tensor(shape=[-1])]}, "1 to 4 whole numbers"),
        ({"inputs": [tensor(shape=[True])]}, "1 to 4 whole numbers"),
        ({"inputs": [tensor(shape=[2, 2])]}, "[N] or [N, 1]"),
        ({"inputs": [tensor(data="x")]}, "must be a list"),
        ({"inputs": [tensor(data=[1, 2])]}, "base64 texts"),
        ({"inputs": [tensor(data=["/etc/hostname"] * 2)]}, "Record 1 of 2"),
        ({"inputs": [tensor(data=["file:///etc/hostname"] * 2)]}, "does not accept paths"),
        ({"inputs": [tensor(parameters={"content_type": "np"})]}, "must be base64"),
        ({"inputs": [tensor(parameters={"shared_memory_region": "x"})]}, "does not support"),
        ({"inputs": [tensor(parameters=[1])]}, "not an object"),
        ({"inputs": [tensor()], "parameters": {"sequence_id": 1}}, "does not support"),
        ({"inputs": [tensor()], "id": 5}, "id must be text"),
        ({"inputs": [tensor()], "outputs": [{"name": "x"}]}, "label, probabilities"),
        ({"inputs": [tensor()], "outputs": [{"name": "label"}] * 2}, "label, probabilities"),
        ({"inputs": [tensor()], "outputs": {"name": "label"}}, "must be a list"),
        (
            {
                "inputs": [tensor()],
                "outputs": [{"name": "label", "parameters": {"classification": 3}}],
            },
            "does not support",
        ),
        ({"inputs": [pixels(shape=[1, 3])]}, "[N, H, W, 3]"),
        ({"inputs": [pixels(shape=[1, 1, 4])]}, "[N, H, W, 3]"),
        ({"inputs": [pixels(shape=[0, 1, 3])]}, "[N, H, W, 3]"),
        ({"inputs": [pixels(shape=[2, 1, 3])]}, "needs 6 values"),
        ({"inputs": [pixels(data=[1, 2, 256])]}, "0 to 255"),
        ({"inputs": [pixels(data=[1, 2, -1])]}, "0 to 255"),
        ({"inputs": [pixels(data=[1, 2, 2.5])]}, "0 to 255"),
        ({"inputs": [pixels(data=["1", "2", "3"])]}, "0 to 255"),
        ({"inputs": [pixels(data=[[1], [1, 2]])]}, "unequal lengths"),
        ({"inputs": [tensor(parameters={"binary_data_size": 5})]}, "0 bytes follow"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}, "either the field"),
    ],
)
def test_wrong_requests_get_400_with_the_reason(
    client: TestClient, request_: Any, message: str
) -> None:
    response = client.post(INFER, json=request_)
    assert response.status_code == 400, response.text
    assert message in response.json()["error"]


@pytest.mark.parametrize("length", ["-1", "x", "9999", "1e1", "\u0661"])
def test_wrong_header_lengths_get_400(length: str) -> None:
    with pytest.raises(RequestError, match=LENGTH):
        parse_infer(b"{}", length)


def test_too_many_images_and_pixels_get_413(client: TestClient) -> None:
    data = [base64.b64encode(FILES[0]).decode()] * 11
    response = client.post(INFER, json={"inputs": [tensor(shape=[11], data=data)]})
    assert (response.status_code, "the limit is 10" in response.text) == (413, True)
    stream = io.BytesIO()
    Image.new("L", (900, 900)).save(stream, "PNG")
    data = [base64.b64encode(stream.getvalue()).decode()] * 2
    response = client.post(INFER, json={"inputs": [tensor(data=data)]})
    assert (response.status_code, "1.62 million pixels" in response.text) == (413, True)


def test_broken_image_is_named_and_counted_once(client: TestClient, bench: Bench) -> None:
    def count() -> float:
        return bench.metric("eyevsai_rejected_total", model="stripes", reason="image")

    before = count()
    data = [base64.b64encode(content).decode() for content in (FILES[0], b"no image")]
    response = client.post(INFER, json={"inputs": [tensor(data=data)]})
    assert response.status_code == 400
    assert "Record 2 of 2" in response.json()["error"]
    assert count() == before + 1


@given(st.lists(st.binary(max_size=30)))
def test_binary_elements_survive_the_way_there_and_back(elements: list[bytes]) -> None:
    packed = b"".join(struct.pack("<I", len(each)) + each for each in elements)
    assert _unpack(packed) == elements


@given(st.lists(st.text(max_size=10)))
def test_texts_are_packed_as_utf_8(texts: list[str]) -> None:
    encodable = [text for text in texts if text.isprintable()]
    assert [each.decode() for each in _unpack(_pack(encodable))] == encodable


@given(st.binary(max_size=40))
def test_random_binary_data_is_parsed_or_refused(binary: bytes) -> None:
    header = json.dumps(
        {
            "inputs": [
                {
                    "name": "image",
                    "shape": [1],
                    "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(binary)},
                }
            ]
        }
    ).encode()
    try:
        cells = parse_infer(header + binary, str(len(header))).cells
    except RequestError:
        return
    assert len(cells) == 1
    assert len(cells[0]) == len(binary) - 4


def test_texts_as_pixels_take_no_memory() -> None:
    body = {"inputs": [pixels(shape=[1, 1, 3], data=["A" * 100_000, *[""] * 500])]}
    content = json.dumps(body).encode()
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="whole numbers"):
            parse_infer(content, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6
