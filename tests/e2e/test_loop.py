"""The closed loop over real processes: a server, clients, and `watch`, which nobody helps."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.conftest import ROOT, Eyevsai, eyevsai_in, find_port
from tests.e2e.stripes import NAME, draw

# one worker: a test moves the images of the shared store
pytestmark = pytest.mark.xdist_group("watch")
START_S, LOOKS = 120.0, 60
POLICY = """
min_labels = 40
new_labels = 1000
cooldown_hours = 0
recent_tolerance = 0.05
promote = "rollout"
rollout_policy = "rollout.toml"

[train]
epochs = 8
"""
# few requests prove a high limit
ROLLOUT = """
plan = "shadow,50"
min_time_s = 1
min_requests = 20
failure_limit = 0.3
tolerance = 0.5
min_labels = 100000
"""


class Client:
    """Client of the server at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, path: str, body: bytes, media_type: str) -> Any:
        """Return the JSON of a response."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": media_type})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.loads(response.read())

    def predict(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        """Return the answers for images."""
        answers = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG")
            answers.append(self.post("/v1/predict", buffer.getvalue(), "image/png"))
        return answers

    def label(self, answers: list[dict[str, Any]], labels: list[str]) -> None:
        """Send the labels of answers."""
        pairs = zip(answers, labels, strict=True)
        body = [{"id": each["id"], "label": label, "source": "person"} for each, label in pairs]
        self.post("/v1/feedback", json.dumps(body).encode(), "application/json")


@contextmanager
def serving(folder: Path) -> Iterator[Client]:
    """Run a server that keeps all images; yield a client when it is ready."""
    port = find_port()
    command = [sys.executable, "-m", "eyevsai", "serve", NAME, "--port", str(port)]
    command += ["--keep-images", "1", "--poll-s", "1", "--workers", "1"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while True:
            assert process.poll() is None, (folder / "serve.log").read_text()
            assert time.monotonic() < deadline, (folder / "serve.log").read_text()
            with suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"{url}/ready", timeout=5)
                break
            time.sleep(0.2)
        yield Client(url)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def workplace(served_project: Path) -> Path:
    (served_project / "retraining.toml").write_text(POLICY)
    (served_project / "rollout.toml").write_text(ROLLOUT)
    return served_project


def watch(eyevsai: Eyevsai) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(eyevsai("watch", NAME, "--json").stdout)
    return result


@pytest.mark.slow
@pytest.mark.processes("a server, and watch as cron calls it")
def test_loop_without_a_hand(workplace: Path) -> None:
    """Alarm, labelling request, retraining, gate, shadow, split, promotion."""
    eyevsai = eyevsai_in(workplace)
    images, labels = draw(300, 900, is_shifted=True)
    rest, truth = draw(90, 1200, is_shifted=True)
    with serving(workplace) as client:
        client.predict(draw(240, 500)[0])
        wait_for_log(eyevsai, 240)
        assert watch(eyevsai)["state"] == "idle"
        answers = client.predict(images)
        wait_for_log(eyevsai, 540)
        assert watch(eyevsai)["state"] == "needs_labels"
        before = score(client.predict(rest), truth)
        client.label(answers[:150], labels[:150])  # half of them, late
        wait_for_log(eyevsai, 540, labels=150)
        result = watch(eyevsai)
        assert result["state"] == "rollout", result
        assert MlflowClient().get_registered_model(NAME).aliases["candidate"] == 2
        for _ in range(LOOKS):
            client.predict(draw(30, 1500, is_shifted=True)[0])
            time.sleep(1.0)
            if (result := watch(eyevsai))["state"] != "rollout":
                break
        assert "promoted" in result["outcome"], result
        assert MlflowClient().get_registered_model(NAME).aliases["production"] == 2
        deadline = time.monotonic() + 30
        while (answer := client.predict(rest[:1])[0])["version"] != 2:
            assert time.monotonic() < deadline, answer
            time.sleep(0.5)
        after = score(client.predict(rest), truth)
    assert after > 0.9
    assert after > before + 0.1
    log = json.loads(eyevsai("registry", "log", NAME, "--json").stdout)
    assert {"alert", "retraining", "promote"} <= {each["action"] for each in log}


def score(answers: list[dict[str, Any]], labels: list[str]) -> float:
    """Return the share of correct answers."""
    return float(
        np.mean([each["label"] == label for each, label in zip(answers, labels, strict=True)])
    )


def wait_for_log(eyevsai: Eyevsai, count: int, labels: int = 0) -> None:
    """Wait until the server has written its answers, and the labels of some."""
    deadline = time.monotonic() + 30
    while True:
        report = json.loads(eyevsai("monitor", "live", NAME, "--json", code=None).stdout)
        if report["answers"] >= count and report["labels"]["labelled"] >= labels:
            return
        assert time.monotonic() < deadline, (report["answers"], report["labels"])
