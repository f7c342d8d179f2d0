"""Loaded versions of a small network with random weights, and services on them."""

from __future__ import annotations

import asyncio
import io
import secrets
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from eyevsai.inference_log.ids import Identities
from eyevsai.models.deep_v1.network import DeepV1Learner
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.serving.classifier import Classifier, make_classifier
from eyevsai.serving.http.answers import Answer
from eyevsai.serving.http.metrics import Metrics
from eyevsai.serving.http.routing import ProductionRouter, Router
from eyevsai.serving.http.service import PredictionService
from eyevsai.serving.http.versions import LoadedVersion, VersionTable
from eyevsai.serving.http.workers import WorkerPool
from tests.conftest import draw_image

CLASSES = ("across", "down", "wide")


def make_image(number: int = 0) -> bytes:
    """Return the content of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(draw_image(1, number)).save(stream, "PNG")
    return stream.getvalue()


def make_version(number: int = 1, **options: Any) -> LoadedVersion:
    """Return a version whose weights depend on its number."""
    settings = DeepV1Settings(image_size=32, width=4)
    learner = DeepV1Learner("standard", settings, CLASSES, seed=number)
    learner.network.eval()
    return LoadedVersion("stripes", number, make_classifier(learner), **options)


class Faulty:
    """Model that calls a function instead of a network, to inject a fault."""

    def __init__(self, predict: Callable[[int], npt.NDArray[np.float32]]) -> None:
        self._predict = predict

    def predict_proba(self, images: Sequence[Any]) -> npt.NDArray[np.float32]:
        return self._predict(len(images))


def make_faulty(
    predict: Callable[[int], npt.NDArray[np.float32]], number: int = 9, **options: Any
) -> LoadedVersion:
    """Return a version whose model is a function of the number of images."""
    learner = DeepV1Learner("standard", DeepV1Settings(image_size=32, width=4), CLASSES, seed=0)
    about = make_classifier(learner).metadata
    classifier = Classifier(Faulty(predict), about)
    return LoadedVersion("stripes", number, classifier, **options)


class Bench:
    """Service with its parts, in a running event loop."""

    def __init__(
        self,
        *versions: LoadedVersion,
        router: Callable[[VersionTable], Router] = ProductionRouter,
        size: int = 2,
        queue: int = 32,
        stuck_after_s: float = 30.0,
    ) -> None:
        self.table = VersionTable()
        self.answers: list[Answer] = []
        self.metrics = Metrics("stripes", self.table)
        self.pool = WorkerPool(size, queue, stuck_after_s)
        identities = Identities(secrets.token_bytes())
        self.service = PredictionService(
            "stripes",
            self.table,
            router(self.table),
            self.pool,
            metrics=self.metrics,
            new_id=identities.new_id,
            id_of_request=identities.id_of_request,
            sinks=[self.answers.append],
        )
        if versions:
            self.table.assign(dict(zip(("production", "candidate"), versions, strict=False)))

    def run(self, work: Callable[[PredictionService], Any]) -> Any:
        """Run a coroutine function of the service in a new event loop, and stop the workers."""

        async def main() -> Any:
            self.pool.start(asyncio.get_running_loop())
            try:
                return await work(self.service)
            finally:
                self.pool.close()

        return asyncio.run(main())

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of a series; 0 if it does not exist."""
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def image() -> bytes:
    return make_image()
