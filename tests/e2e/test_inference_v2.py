"""/v2 with the client of NVIDIA Triton, which nobody here wrote."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyevsai.serving.http import inference_v2
from eyevsai.serving.http.app import build_app
from eyevsai.serving.http.deadlines import make_http_protocol
from eyevsai.serving.http.guard import Guard
from eyevsai.serving.http.image_reader import ImageReader
from eyevsai.serving.http.security_settings import LimitSettings, SecuritySettings
from tests.unit.serving.http.conftest import CLASSES, Bench, make_image, make_version
from tests.unit.serving.http.live import serving

http = pytest.importorskip("tritonclient.http")
TOKEN = "t" * 30
FILES = [make_image(0), make_image(1)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Bench]]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"predict {TOKEN}\n")
    tokens.chmod(0o600)
    limits, security = LimitSettings(), SecuritySettings(token_file=str(tokens))
    reader = ImageReader(limits)
    bench = Bench(make_version(3, read=reader.read_one), make_version(4, read=reader.read_one))
    app = build_app(bench.service, routers=[inference_v2.make_router(bench.service, limits)])
    guard = Guard(app, security=security, limits=limits, host="127.0.0.1")
    with serving(guard, http=make_http_protocol(limits)) as port:
        yield port, bench


@pytest.fixture
def triton(served: tuple[int, Bench]) -> Iterator[Any]:
    client = http.InferenceServerClient(f"127.0.0.1:{served[0]}")
    yield client
    client.close()


def make_headers() -> dict[str, str]:
    """Return the headers of a request, which the client changes."""
    return {"Authorization": f"Bearer {TOKEN}"}


def make_input(kind: str, *, binary: bool) -> Any:
    """Return the input of two images as `kind`."""
    if kind == "UINT8":
        values = np.stack([np.asarray(Image.open(io.BytesIO(FILES[0])))] * 2)
    else:
        elements = FILES if binary else [base64.b64encode(file) for file in FILES]
        values = np.array(elements, dtype=np.object_)
    tensor = http.InferInput("image", values.shape, kind)
    return tensor.set_data_from_numpy(values, binary_data=binary)


@pytest.mark.parametrize("binary_output", [None, True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["BYTES", "UINT8"])
def test_inference_gives_the_probabilities_of_the_version(
    triton: Any, served: tuple[int, Bench], kind: str, binary: bool, binary_output: bool | None
) -> None:
    outputs = None
    if binary_output is not None:
        outputs = [
            http.InferRequestedOutput(name, binary_data=binary_output)
            for name in ("probabilities", "label")
        ]
    result = triton.infer(
        "stripes",
        [make_input(kind, binary=binary)],
        outputs=outputs,
        request_id="a-1",
        headers=make_headers(),
    )
    version = served[1].table.production
    assert version is not None
    files = FILES[:1] * 2 if kind == "UINT8" else FILES
    rows = result.as_numpy("probabilities")
    assert (rows.dtype, rows.shape) == (np.float32, (2, 3))
    np.testing.assert_allclose(rows, [version.predict(file).row for file in files], atol=1e-6)
    labels = [
        each.decode() if isinstance(each, bytes) else each for each in result.as_numpy("label")
    ]
    assert labels == [CLASSES[index] for index in rows.argmax(axis=1)]
    response = result.get_response()
    assert (response["model_version"], response["id"]) == ("3", "a-1")


def test_named_version(triton: Any) -> None:
    tensors = [make_input("BYTES", binary=True)]
    result = triton.infer("stripes", tensors, model_version="4", headers=make_headers())
    assert result.get_response()["model_version"] == "4"


def test_health_and_metadata(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("stripes", headers=make_headers())
    assert triton.is_model_ready("stripes", "4", headers=make_headers())
    assert not triton.is_model_ready("stripes", "5", headers=make_headers())
    assert triton.get_server_metadata(headers=make_headers())["extensions"] == [
        "binary_tensor_data"
    ]
    metadata = triton.get_model_metadata("stripes", headers=make_headers())
    assert metadata["versions"] == ["3", "4"]
    assert metadata["inputs"][0]["datatype"] == "BYTES"


def test_refusals_are_exceptions_of_the_client_with_the_reason(triton: Any) -> None:
    from tritonclient.utils import InferenceServerException

    tensors = [make_input("BYTES", binary=True)]
    with pytest.raises(InferenceServerException, match="token is required"):
        triton.infer("stripes", tensors)
    with pytest.raises(InferenceServerException, match="'other' is not served"):
        triton.infer("other", tensors, headers=make_headers())
    with pytest.raises(InferenceServerException, match="Version '9' is not loaded"):
        triton.infer("stripes", tensors, model_version="9", headers=make_headers())
    with pytest.raises(InferenceServerException, match="Content-Encoding"):
        triton.infer(
            "stripes", tensors, headers=make_headers(), request_compression_algorithm="gzip"
        )
    with pytest.raises(InferenceServerException, match="does not support"):
        triton.infer("stripes", tensors, sequence_id=5, headers=make_headers())
