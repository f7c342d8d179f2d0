"""/invocations of the server, compared with MLflow's own scoring server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from eyevsai.data.dataset import load_dataset
from eyevsai.data.settings import DataSettings
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.serving.classifier import open_model
from eyevsai.serving.http import invocations
from eyevsai.serving.http.app import build_app
from eyevsai.serving.http.image_reader import ImageReader
from eyevsai.serving.http.invocations import DIFFERENCES
from eyevsai.serving.http.security_settings import LimitSettings
from eyevsai.serving.http.versions import LoadedVersion
from eyevsai.serving.model_dir import MODEL_FOLDER, write_model_dir
from eyevsai.serving.pyfunc import SERVED
from tests.contract.invocation_bodies import Body, make_bodies
from tests.unit.serving.http.conftest import Bench

BODIES = make_bodies()


@pytest.fixture(scope="module")
def package(stripes: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = load_dataset(DataSettings(data=str(stripes), cache_dir=str(cache_dir)))
    learner = DeepV1Learner("standard", DeepV1Settings(image_size=32, width=4), dataset.classes, 0)
    return write_model_dir(
        learner, dataset.open(learner.preprocessing).valid, tmp_path_factory.mktemp("made"), {}
    )


@pytest.fixture(scope="module")
def mlflow_client(package: Path) -> Iterator[TestClient]:
    import mlflow.pyfunc
    from mlflow.pyfunc import scoring_server

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SERVED, "model")  # as `mlflow models serve` sets it
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
        app = scoring_server.init(mlflow.pyfunc.load_model(str(package)))
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client


@pytest.fixture(scope="module")
def client(package: Path) -> Iterator[TestClient]:
    limits = LimitSettings()
    classifier = open_model(package / MODEL_FOLDER)
    reader = ImageReader(limits)
    version = LoadedVersion("stripes", 1, classifier, reader.read_one)
    service = Bench(version).service
    app = build_app(service, routers=[invocations.make_router(service, limits)])
    with TestClient(app) as client:
        yield client


def test_there_are_at_least_200_bodies_good_and_bad() -> None:
    assert len(BODIES) >= 200


def assert_same_predictions(ours: Any, theirs: Any) -> None:
    """Compare responses; MLflow predicts in batches, which changes the last bit of float32."""
    assert ours.keys() == theirs.keys() == {"predictions"}
    pairs = zip(ours["predictions"], theirs["predictions"], strict=True)
    for one, other in pairs:
        assert list(one) == list(other) == ["label", "probability", "probabilities"]
        assert one["label"] == other["label"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
        assert list(one["probabilities"]) == list(other["probabilities"])
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-6)


@pytest.mark.parametrize("body", BODIES, ids=[body.name for body in BODIES])
def test_status_and_predictions_are_those_of_mlflow(
    body: Body, client: TestClient, mlflow_client: TestClient
) -> None:
    headers = {} if body.content_type is None else {"Content-Type": body.content_type}
    ours = client.post("/invocations", content=body.content, headers=headers)
    theirs = mlflow_client.post("/invocations", content=body.content, headers=headers)
    if body.difference:
        assert body.difference in DIFFERENCES
        assert ours.status_code in (400, 415)
        assert ours.status_code != theirs.status_code
    else:
        assert ours.status_code == theirs.status_code, (ours.text[:300], theirs.text[:300])
    if ours.status_code == 200:
        assert_same_predictions(ours.json(), theirs.json())
    else:
        assert ours.json().keys() == {"error_code", "message"}
        assert "Traceback" not in ours.text
        assert len(ours.text) < 1000
