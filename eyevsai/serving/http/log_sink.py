"""Sink that passes answers to the inference log, and the metrics of the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from eyevsai.inference_log.records import FAILED, OK, TIMEOUT
from eyevsai.inference_log.records import Answer as Record
from eyevsai.inference_log.records import Version as VersionRecord
from eyevsai.inference_log.writer import LogWriter
from eyevsai.serving.http.answers import Answer
from eyevsai.serving.http.versions import LoadedVersion

IMAGE_STATUSES = (400, 413, 422)  # of answers that are no failure of a version: not logged
TIMEOUT_STATUS = 504
# reasons of lost records, which have a series from the start
DROP_REASONS = ("queue_full", "invalid", "image", "closed")


class LogSink:
    """Writes answers and versions to the inference log; neither blocks.

    Args:
        writer: the log.
    """

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer

    def put_version(self, version: LoadedVersion) -> None:
        """Write the classes of a version."""
        self._writer.put(VersionRecord(version.name, version.number, version.classes))

    def __call__(self, answer: Answer) -> None:
        """Write an answer."""
        if answer.status in IMAGE_STATUSES:
            return
        record = Record(
            answer.id,
            answer.at,
            answer.model,
            answer.version,
            answer.arm,
            key_hash=self._hash_key(answer),
            step=answer.step or None,
            shadow_of=answer.shadow_of,
            queue_ms=1000 * answer.queue_s,
            bytes=None if answer.content is None else len(answer.content),
        )
        outcome = answer.outcome
        if outcome is None:
            record.status = TIMEOUT if answer.status == TIMEOUT_STATUS else FAILED
            record.error = answer.error
            self._writer.put(record)
            return
        row = outcome.row
        best = int(row.argmax())
        record.status = OK
        record.label, record.probability = answer.classes[best], float(row[best])
        record.probabilities, record.statistics = row, outcome.statistics
        record.model_ms = 1000 * outcome.model_s
        record.width, record.height = outcome.width, outcome.height
        record.sha256, record.is_unsure = outcome.sha256, answer.is_unsure
        self._writer.put(record, answer.content)

    def _hash_key(self, answer: Answer) -> str | None:
        if answer.key is None:
            return None
        return self._writer.identities.hash_key(answer.model, answer.key)


class LogCollector(Collector):
    """Metrics of the inference log, read when they are scraped.

    Args:
        writer: the log.
        model: name of the registered model.
    """

    def __init__(self, writer: LogWriter, model: str) -> None:
        self._writer, self._model = writer, model

    def collect(self) -> Iterable[Metric]:
        state = self._writer.state()
        dropped = CounterMetricFamily(
            "eyevsai_log_dropped",
            "Records that the inference log lost.",
            labels=("reason",),
        )
        for reason in dict.fromkeys((*DROP_REASONS, *state.dropped)):
            dropped.add_metric((reason,), state.dropped.get(reason, 0))
        feedback = CounterMetricFamily(
            "eyevsai_feedback",
            "Labels from clients, by result.",
            labels=("model", "version", "result"),
        )
        for (model, version, result), count in state.label_results.items():
            feedback.add_metric((model or self._model, version, result), count)
        size = GaugeMetricFamily("eyevsai_log_bytes", "Size of the inference log.", labels=())
        if state.log_bytes is not None:
            size.add_metric((), state.log_bytes)
        return [dropped, feedback, size]


def describe_log(writer: LogWriter) -> dict[str, Any]:
    """Return the state of the log for /v1/status."""
    state = writer.state()
    return {
        "queued": state.queued,
        "written": state.written,
        "dropped": dict(state.dropped),
        "failing": state.is_failing,
        "error": state.error,
    }
