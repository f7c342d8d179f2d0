"""Creation of runs that ended before they were imported, with their original times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from eyevsai.store.batches import log_batches
from eyevsai.store.tags import SCHEMA, SCHEMA_VERSION
from eyevsai.tracking.run_creation import NewRun, create_run

RECORD = "record.json"  # artifact with the record of the other registry


@dataclass(frozen=True)
class BackfilledRun:
    """Content of a past run."""

    name: str
    status: str  # FINISHED or FAILED
    started_ms: int
    ended_ms: int
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    record: str  # JSON


def backfill_run(
    tracking_uri: str, past: BackfilledRun, unfinished_run_id: str | None = None
) -> str:
    """Create a past run in the store and return its id.

    The run is RUNNING until everything is written. All steps after its creation can be repeated.

    Args:
        tracking_uri: URI of the store.
        past: content of the run.
        unfinished_run_id: run of an earlier, interrupted call, which is completed instead.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    new = NewRun(past.name, {SCHEMA: str(SCHEMA_VERSION), **past.tags})
    run_id = unfinished_run_id or create_run(client, new, past.started_ms)
    params = [Param(name, value) for name, value in past.params.items()]
    metrics = [Metric(name, value, past.ended_ms, 0) for name, value in past.metrics.items()]
    log_batches(client, run_id, metrics=metrics, params=params)
    client.log_text(run_id, past.record, RECORD)
    client.set_terminated(run_id, past.status, past.ended_ms)
    return run_id
