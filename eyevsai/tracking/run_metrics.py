"""Metrics of many runs, read in bulk.

From a database only the needed columns are read, which is faster than MLflow's search.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.store.tracking.dbmodels.models import (
    SqlDataset,
    SqlInput,
    SqlLatestMetric,
    SqlRun,
    SqlTag,
)

from eyevsai.evaluation.metric_names import use_current_names
from eyevsai.store.paging import IDS_PER_QUERY, PAGE_SIZE, iter_pages, list_experiments
from eyevsai.store.tags import PAUSED_S

PARTS = "parts"  # key in the profile of a run's data: the datasets that the data are composed of


@dataclass(frozen=True)
class RunMetrics:
    """Metrics, duration and data of a run."""

    experiment_id: str
    artifact_uri: str
    # without pauses between interruptions and resumes; None while the run has not ended
    duration_s: float | None
    metrics: Mapping[str, float]
    # the datasets that the data are composed of; empty if not recorded
    parts: tuple[str, ...]


def read_run_metrics(tracking_uri: str, run_ids: Iterable[str]) -> dict[str, RunMetrics]:
    """Return the metrics of runs by run id; missing and deleted runs are omitted."""
    client, ids = MlflowClient(tracking_uri=tracking_uri), sorted(set(run_ids))
    store: Any = client._tracking_client.store
    reader = read_columns if hasattr(store, "ManagedSessionMaker") else read_runs
    metrics: dict[str, RunMetrics] = {}
    for start in range(0, len(ids), IDS_PER_QUERY):
        metrics |= reader(client, ids[start : start + IDS_PER_QUERY])
    return metrics


def read_runs(client: MlflowClient, ids: Sequence[str]) -> dict[str, RunMetrics]:
    """Read the metrics of runs with MLflow's search, which works with every store."""
    experiments = [each.experiment_id for each in list_experiments(client)]
    filter_string = f"attributes.run_id IN ({', '.join(repr(run_id) for run_id in ids)})"
    runs: Iterator[Run] = iter_pages(
        lambda token: client.search_runs(
            experiments, filter_string, ViewType.ACTIVE_ONLY, PAGE_SIZE, page_token=token
        )
    )
    metrics = {}
    for run in runs:
        info, data = run.info, run.data
        profiles = (
            [each.dataset.profile for each in run.inputs.dataset_inputs] if run.inputs else []
        )
        duration_s = _duration_s(info.start_time, info.end_time, data.tags.get(PAUSED_S))
        parts = _read_parts(profiles[0]) if profiles else ()
        current = use_current_names(data.metrics)
        metrics[info.run_id] = RunMetrics(
            info.experiment_id, info.artifact_uri, duration_s, current, parts
        )
    return metrics


def read_columns(client: MlflowClient, ids: Sequence[str]) -> dict[str, RunMetrics]:
    """Read the metrics of runs from the database of a client without a server."""
    store: Any = client._tracking_client.store
    with store.ManagedSessionMaker() as session:
        columns = (
            SqlRun.run_uuid,
            SqlRun.experiment_id,
            SqlRun.artifact_uri,
            SqlRun.start_time,
            SqlRun.end_time,
        )
        runs = (
            session.query(*columns)
            .filter(SqlRun.run_uuid.in_(ids), SqlRun.lifecycle_stage == "active")
            .all()
        )
        pauses = session.query(SqlTag.run_uuid, SqlTag.value).filter(
            SqlTag.key == PAUSED_S, SqlTag.run_uuid.in_(ids)
        )
        latest = (
            SqlLatestMetric.run_uuid,
            SqlLatestMetric.key,
            SqlLatestMetric.value,
            SqlLatestMetric.is_nan,
        )
        rows = session.query(*latest).filter(SqlLatestMetric.run_uuid.in_(ids)).all()
        profiles = dict(
            session.query(SqlInput.destination_id, SqlDataset.dataset_profile)
            .join(SqlDataset, SqlDataset.dataset_uuid == SqlInput.source_id)
            .filter(SqlInput.source_type == "DATASET", SqlInput.destination_id.in_(ids))
            .all()
        )
        paused = dict(pauses.all())
    metrics: dict[str, dict[str, float]] = {run_id: {} for run_id in ids}
    for run_id, name, value, is_nan in rows:
        metrics[run_id][name] = float("nan") if is_nan else value
    return {
        run_id: RunMetrics(
            str(experiment),
            uri,
            _duration_s(started_ms, ended_ms, paused.get(run_id)),
            use_current_names(metrics[run_id]),
            _read_parts(profiles.get(run_id)),
        )
        for run_id, experiment, uri, started_ms, ended_ms in runs
    }


def read_seconds(text: str | None) -> float:
    """Return a number of seconds from the value of a tag; 0 if it is missing or not a number.

    Users may edit tags in MLflow's UI.
    """
    try:
        return float(text or 0.0)
    except ValueError:
        return 0.0


def _duration_s(started_ms: int, ended_ms: int | None, paused: str | None) -> float | None:
    return (
        None
        if ended_ms is None
        else max(0.0, (ended_ms - started_ms) / 1000 - read_seconds(paused))
    )


def _read_parts(profile: str | None) -> tuple[str, ...]:
    try:
        return tuple(map(str, json.loads(profile or "{}").get(PARTS, ())))
    except (ValueError, TypeError, AttributeError):  # a profile that another program logged
        return ()
