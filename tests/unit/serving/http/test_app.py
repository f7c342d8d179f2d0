from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.requests import Request
from starlette.testclient import TestClient

from eyevsai.inference_log.ids import new_request_id
from eyevsai.serving.http.app import MAX_KEY, build_app, read_key
from eyevsai.serving.http.metrics import MAX_LABELS, Metrics
from eyevsai.serving.http.versions import VersionTable
from tests.unit.serving.http.conftest import Bench, make_image, make_version

PNG = {"Content-Type": "image/png"}


def test_prediction_has_id_version_arm_and_the_most_probable_classes(image: bytes) -> None:
    bench = Bench(make_version(7))
    with TestClient(build_app(bench.service, top_k=2)) as client:
        answer = client.post("/v1/predict", content=image, headers=PNG | {"Eyevsai-Key": "anna"})
        values = answer.json()
        assert answer.status_code == 200
        assert (values["model"], values["version"], values["arm"]) == ("stripes", 7, "production")
        assert answer.headers["eyevsai-id"] == values["id"]
        assert (answer.headers["eyevsai-version"], answer.headers["eyevsai-arm"]) == (
            "7",
            "production",
        )
        probabilities = list(values["probabilities"].values())
        assert probabilities == sorted(probabilities, reverse=True)
        assert (len(probabilities), values["probability"]) == (2, probabilities[0])
        assert bench.answers[0].key == "anna"
        all_classes = client.post("/v1/predict?top_k=99", content=image).json()["probabilities"]
        assert sum(all_classes.values()) == pytest.approx(1, abs=1e-5)


def test_request_that_is_sent_again_has_the_same_id(image: bytes) -> None:
    bench = Bench(make_version())
    request = {"Eyevsai-Request": new_request_id()}
    with TestClient(build_app(bench.service)) as client:

        def send(content: bytes, **headers: str) -> str:
            headers = PNG | request | headers
            return str(client.post("/v1/predict", content=content, headers=headers).json()["id"])

        first = send(image)
        assert send(image) == first
        # neither another image nor another client replaces the answer in the log
        others = [send(make_image(1)), send(image, **{"Eyevsai-Key": "anna"})]
        invalid = [send(image, **{"Eyevsai-Request": text}) for text in ("x", "0" * 32)]
        assert len({first, *others, *invalid}) == 5


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ({"content": b"no image"}, 422, "not an image"),
        ({"content": b""}, 400, "body is empty"),
        ({"content": b"{}", "headers": {"Content-Type": "application/json"}}, 415, "/invocations"),
        ({"content": b"x", "params": {"top_k": "0"}}, 400, "top_k must be"),
        ({"content": b"x", "params": {"top_k": "-1"}}, 400, "top_k must be"),
        ({"content": b"x", "params": {"top_k": "x" * 500}}, 400, "top_k must be"),
        ({"content": b"x", "headers": {"Eyevsai-Key": "k" * (MAX_KEY + 1)}}, 400, "Eyevsai-Key"),
    ],
)
def test_bad_requests_are_refused_with_a_reason(options: dict, status: int, reason: str) -> None:
    with TestClient(build_app(Bench(make_version()).service)) as client:
        answer = client.post("/v1/predict", **options)
        assert answer.status_code == status
        assert reason in answer.text
        assert len(answer.text) < 500


def test_probes_status_and_metrics_tell_the_state(image: bytes) -> None:
    bench = Bench()
    with TestClient(build_app(bench.service)) as client:
        assert [client.get(path).status_code for path in ("/ready", "/ping", "/live")] == [
            503,
            503,
            200,
        ]
        refused = client.post("/v1/predict", content=image)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        bench.table.assign({"production": make_version(3)})
        assert client.get("/health").status_code == 200
        client.post("/v1/predict", content=image)
        status = client.get("/v1/status").json()
        assert status["versions"][0]["version"] == 3
        assert status["versions"][0]["roles"] == ["production"]
        text = client.get("/metrics").text
        samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        info = ("alias", "production"), ("model", "stripes"), ("version", "3")
        assert samples["eyevsai_version_info", *info] == 1
        reason = ("model", "stripes"), ("reason", "not_ready")
        assert samples["eyevsai_rejected_total", *reason] == 1
        bench.service.is_draining = True
        assert client.get("/ready").status_code == 503
        assert client.get("/live").status_code == 200


def test_an_answer_is_counted_with_the_status_that_the_client_got() -> None:
    bench = Bench(make_version(3))
    with TestClient(build_app(bench.service)) as client:
        assert client.post("/v1/predict", content=b"no image").status_code == 422
    labels = {"model": "stripes", "version": "3", "arm": "production"}
    assert bench.metric("eyevsai_requests_total", code="422", **labels) == 1
    assert bench.metric("eyevsai_requests_total", code="400", **labels) == 0


@pytest.mark.parametrize(
    ("sent", "key"),
    [
        ("café-日本".encode(), "café-日本"),
        ("café".encode("latin-1"), "café"),
        (b"anna", "anna"),
        (b"", None),
    ],
)
def test_key_is_read_as_utf_8(sent: bytes, key: str | None) -> None:
    """`feedback forget --key` hashes the key of the terminal."""
    assert read_key(Request({"type": "http", "headers": [(b"eyevsai-key", sent)]})) == key


def test_metrics_name_the_alias_and_the_age_of_a_registry_that_was_never_read() -> None:
    for alias, label in (("staging", "staging"), (None, "")):
        table = VersionTable()
        metrics = Metrics("stripes", table, alias)
        table.assign({"production": make_version(1), "candidate": make_version(2)})
        value = metrics.registry.get_sample_value
        for shown, version in ((label, "1"), ("candidate", "2")):
            labels = {"model": "stripes", "version": version, "alias": shown}
            assert value("eyevsai_version_info", labels) == 1
        metrics.started_at -= 700  # the server started from its copy
        age = value("eyevsai_registry_age_seconds", {"model": "stripes"})
        assert age is not None
        assert age >= 700


def test_openapi_page_and_metrics_can_be_left_out() -> None:
    app = build_app(Bench(make_version()).service, has_docs=False, has_metrics=False)
    with TestClient(app) as client:
        for path in ("/docs", "/openapi.json", "/redoc", "/metrics"):
            assert client.get(path).status_code == 404, path
    with TestClient(build_app(Bench(make_version()).service)) as client:
        assert "/v1/predict" in client.get("/openapi.json").json()["paths"]


def test_metrics_have_at_most_a_hundred_labels() -> None:
    metrics = Metrics("many", VersionTable())
    classes = tuple(f"class {number}" for number in range(10_000))
    series = metrics._find_series(1, "production", classes)
    assert len(series._predictions) == MAX_LABELS + 1
    assert metrics.render().count(b"eyevsai_predictions_total{") == MAX_LABELS + 1
