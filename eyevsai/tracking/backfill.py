"""Runs that ended before this store knew of them: written with the times that they had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from eyevsai.store.tags import SCHEMA, SCHEMA_VERSION
from eyevsai.tracking.run_lifecycle import create_run
from eyevsai.tracking.write_operations import PARAMS_PER_CALL

RECORD = "record.json"  # the artifact that holds what another registry knew


@dataclass(frozen=True)
class BackfilledRun:
    """All that a store is to know of such a run."""

    name: str
    status: str  # FINISHED or FAILED
    started_ms: int
    ended_ms: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    record: str  # JSON


def backfill_run(tracking_uri: str, past: BackfilledRun, begun: str | None = None) -> str:
    """Writes a run and returns its id; `begun` is the run of an earlier attempt that did not come
    to its end.

    It is RUNNING until all is written, and each step leaves the same behind when it is done again.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    run_id = begun or create_run(
        client, past.name, {SCHEMA: str(SCHEMA_VERSION), **past.tags}, past.started_ms
    )
    params = [Param(name, value) for name, value in past.params.items()]
    metrics = [Metric(name, value, past.ended_ms, 0) for name, value in past.metrics.items()]
    for start in range(0, max(len(params), len(metrics)), PARAMS_PER_CALL):
        end = start + PARAMS_PER_CALL
        client.log_batch(run_id, metrics[start:end], params[start:end])
    client.log_text(run_id, past.record, RECORD)
    client.set_terminated(run_id, past.status, past.ended_ms)
    return run_id
