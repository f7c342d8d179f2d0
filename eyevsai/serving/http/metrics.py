"""Metrics of the server for Prometheus, in one registry of one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from eyevsai.serving.http.answers import PRODUCTION, SHADOW, Answer
from eyevsai.serving.http.guard import REASONS as GUARD_REASONS
from eyevsai.serving.http.versions import LoadedVersion, VersionTable

MAX_LABELS = 100  # classes with a series of their own; the others are counted as OTHER
OTHER = "other"
KEPT_VERSIONS = 3  # that are not loaded any more, but keep their series
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
# series that exist from the start: a counter that appears with 1 has no rate
REASONS = (
    *GUARD_REASONS,
    *("queue", "not_ready", "draining", "image", "images", "pixels", "media_type", "request"),
)
ARMS = ("model", "version", "arm")


class Metrics:
    """Counters and histograms of a model's answers.

    Args:
        model: name of the registered model.
        table: loaded versions.
        alias: alias that the server follows; None for a fixed version.

    Other parts add their metrics to `registry`.
    """

    def __init__(self, model: str, table: VersionTable, alias: str | None = PRODUCTION) -> None:
        self.model, self.alias, self.registry = model, alias or "", CollectorRegistry()
        self.read_at: Callable[[], float | None] = lambda: None  # monotonic time of the last poll
        self.started_at = time.monotonic()
        self._table, registry = table, self.registry
        self._requests = Counter(
            "eyevsai_requests", "Answers by HTTP status.", (*ARMS, "code"), registry=registry
        )
        self._seconds = Histogram(
            "eyevsai_request_seconds",
            "Time from the request to the answer.",
            ARMS,
            buckets=SECONDS,
            registry=registry,
        )
        self._model_seconds = Histogram(
            "eyevsai_model_seconds",
            "Time of resize and model.",
            ARMS,
            buckets=SECONDS,
            registry=registry,
        )
        self._queue_seconds = Histogram(
            "eyevsai_queue_seconds",
            "Time in the queue.",
            ARMS,
            buckets=SECONDS,
            registry=registry,
        )
        self._predictions = Counter(
            "eyevsai_predictions",
            "Answers by most probable class.",
            ("model", "version", "label"),
            registry=registry,
        )
        self._probability = Histogram(
            "eyevsai_probability",
            "Probability of the most probable class.",
            ("model", "version"),
            buckets=PROBABILITIES,
            registry=registry,
        )
        self._unsure = Counter(
            "eyevsai_unsure",
            "Answers below the threshold.",
            ("model", "version"),
            registry=registry,
        )
        self._rejected = Counter(
            "eyevsai_rejected",
            "Requests without an answer, by reason.",
            ("model", "reason"),
            registry=registry,
        )
        self._shadow_dropped = Counter(
            "eyevsai_shadow_dropped",
            "Shadow predictions that were dropped.",
            ("model",),
            registry=registry,
        )
        self._load_failures = Counter(
            "eyevsai_version_load_failures",
            "Versions that did not load.",
            ("model",),
            registry=registry,
        )
        for reason in REASONS:
            self._rejected.labels(model, reason)
        self._shadow_dropped.labels(model)
        self._load_failures.labels(model)
        ProcessCollector(registry=registry)
        registry.register(_StateCollector(self, table))
        self._series: dict[tuple[int, str], _Series] = {}

    def observe(self, answer: Answer) -> None:
        """Count an answer."""
        self._find_series(answer.version, answer.arm, answer.classes).observe(answer)

    def prepare(self, version: LoadedVersion) -> None:
        """Create the series of a version that is being loaded, and drop those of old ones.

        A server that follows its alias for months would have ever more of them.
        """
        self._find_series(version.number, PRODUCTION, version.classes)
        loaded = {version.number, *self._table.roles().values()}
        keys = [key for key in list(self._series) if key[0] not in loaded]  # the oldest first
        kept = list(dict.fromkeys(number for number, _ in keys))[-KEPT_VERSIONS:]
        for key in keys:
            if key[0] not in kept:
                self._series.pop(key).remove()

    def reject(self, reason: str) -> None:
        """Count a request that gets no answer."""
        self._rejected.labels(self.model, reason).inc()

    def drop_shadow(self) -> None:
        """Count a shadow prediction that was dropped."""
        self._shadow_dropped.labels(self.model).inc()

    def fail_load(self) -> None:
        """Count a version that did not load."""
        self._load_failures.labels(self.model).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def _find_series(self, version: int, arm: str, classes: tuple[str, ...]) -> _Series:
        series = self._series.get((version, arm))
        if series is None:
            series = self._series[version, arm] = _Series(self, version, arm, classes)
        return series


class _Series:
    """Series of one version and arm, looked up once."""

    def __init__(self, metrics: Metrics, version: int, arm: str, classes: tuple[str, ...]) -> None:
        # looked up here, because a look-up by labels takes as long as all counting of an answer
        model, number = metrics.model, str(version)
        labels = (model, number, arm)
        self._metrics, self._requests, self._labels = metrics, metrics._requests, labels
        self._codes = {
            200: self._requests.labels(*labels, "200"),
            500: self._requests.labels(*labels, "500"),
        }
        self._seconds = metrics._seconds.labels(*labels)
        self._model_seconds = metrics._model_seconds.labels(*labels)
        self._queue_seconds = metrics._queue_seconds.labels(*labels)
        self._is_counted = arm != SHADOW  # predictions of a shadow reach no client
        self._probability = metrics._probability.labels(model, number)
        self._unsure = metrics._unsure.labels(model, number)
        names = [*classes[:MAX_LABELS], *([OTHER] if len(classes) > MAX_LABELS else [])]
        self._names = names
        self._predictions = [metrics._predictions.labels(model, number, name) for name in names]

    def remove(self) -> None:
        """Remove the series from the registry."""
        metrics, (model, number, arm) = self._metrics, self._labels
        for code in self._codes:
            metrics._requests.remove(model, number, arm, str(code))
        for histogram in (metrics._seconds, metrics._model_seconds, metrics._queue_seconds):
            histogram.remove(model, number, arm)
        # those of all arms: prometheus_client below 0.22 raises if another arm has removed them
        for metric in (metrics._probability, metrics._unsure):
            with suppress(KeyError):
                metric.remove(model, number)
        for name in self._names:
            with suppress(KeyError):
                metrics._predictions.remove(model, number, name)

    def observe(self, answer: Answer) -> None:
        code = self._codes.get(answer.status)
        if code is None:
            code = self._requests.labels(*self._labels, str(answer.status))
            self._codes[answer.status] = code
        code.inc()
        if answer.outcome is None:
            return
        self._seconds.observe(answer.total_s)
        self._model_seconds.observe(answer.outcome.model_s)
        self._queue_seconds.observe(answer.queue_s)
        if not self._is_counted:
            return
        row = answer.outcome.row
        best = int(row.argmax())
        self._predictions[min(best, len(self._predictions) - 1)].inc()
        probability = float(row[best])
        self._probability.observe(probability)
        if answer.threshold is not None and probability < answer.threshold:
            self._unsure.inc()


class _StateCollector(Collector):
    """Gauges that are read when they are scraped: loaded versions, and the age of the registry."""

    def __init__(self, metrics: Metrics, table: VersionTable) -> None:
        self._metrics, self._table = metrics, table

    def collect(self) -> Iterable[Metric]:
        return list(self._collect())

    def _collect(self) -> Iterator[Metric]:
        model = self._metrics.model
        info = GaugeMetricFamily(
            "eyevsai_version_info", "Loaded versions.", labels=("model", "version", "alias")
        )
        for role, number in self._table.roles().items():
            alias = self._metrics.alias if role == PRODUCTION else role
            info.add_metric((model, str(number), alias), 1)
        yield info
        read_at = self._metrics.read_at()
        age = GaugeMetricFamily(
            "eyevsai_registry_age_seconds",
            "Time since the registry was read successfully, or since the start.",
            labels=("model",),
        )
        since = self._metrics.started_at if read_at is None else read_at
        age.add_metric((model,), max(0.0, time.monotonic() - since))
        yield age
