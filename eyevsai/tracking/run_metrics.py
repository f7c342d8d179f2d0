"""What came of many runs, read at once: of a database the columns that count, since whole runs take
longer.
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

from eyevsai.store.paging import iter_pages, list_experiments
from eyevsai.store.tags import PAUSED_S

PARTS = "parts"  # of what a run says of its data: the datasets that these are composed of
AT_ONCE, IDS_AT_ONCE = 1000, 200  # runs of one answer; in one question


@dataclass(frozen=True)
class RunMetrics:
    """What came of a run."""

    experiment_id: str
    artifact_uri: str
    # from begin to end, without what lay between an interruption and its resume
    duration_s: float | None
    metrics: Mapping[str, float]
    # the datasets that its data are composed of; empty where it does not say
    parts: tuple[str, ...]


def read_run_metrics(tracking_uri: str, run_ids: Iterable[str]) -> dict[str, RunMetrics]:
    """Results of the runs of these ids that are there and were not deleted."""
    client, ids = MlflowClient(tracking_uri=tracking_uri), sorted(set(run_ids))
    store: Any = client._tracking_client.store
    read = read_columns if hasattr(store, "ManagedSessionMaker") else read_runs
    found: dict[str, RunMetrics] = {}
    for start in range(0, len(ids), IDS_AT_ONCE):
        found |= read(client, ids[start : start + IDS_AT_ONCE])
    return found


def read_runs(client: MlflowClient, ids: Sequence[str]) -> dict[str, RunMetrics]:
    """The results of these runs by MLflow's own search, as a server answers it."""
    experiments = [each.experiment_id for each in list_experiments(client)]
    wanted = f"attributes.run_id IN ({', '.join(repr(run_id) for run_id in ids)})"
    runs: Iterator[Run] = iter_pages(
        lambda token: client.search_runs(
            experiments, wanted, ViewType.ACTIVE_ONLY, AT_ONCE, page_token=token
        )
    )
    found = {}
    for run in runs:
        info, data = run.info, run.data
        profiles = (
            [each.dataset.profile for each in run.inputs.dataset_inputs] if run.inputs else []
        )
        took_s = _time(info.start_time, info.end_time, data.tags.get(PAUSED_S))
        parts = _read_parts(profiles[0]) if profiles else ()
        found[info.run_id] = RunMetrics(
            info.experiment_id, info.artifact_uri, took_s, data.metrics, parts
        )
    return found


def read_columns(client: MlflowClient, ids: Sequence[str]) -> dict[str, RunMetrics]:
    """The same out of the database that the client has."""
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
            _time(begun, ended, paused.get(run_id)),
            metrics[run_id],
            _read_parts(profiles.get(run_id)),
        )
        for run_id, experiment, uri, begun, ended in runs
    }


def read_seconds(text: str | None) -> float:
    """What a tag says of a time, 0 where it says none: somebody may write there in MLflow's UI."""
    try:
        return float(text or 0.0)
    except ValueError:
        return 0.0


def _time(started_ms: int, ended_ms: int | None, paused: str | None) -> float | None:
    return (
        None
        if ended_ms is None
        else max(0.0, (ended_ms - started_ms) / 1000 - read_seconds(paused))
    )


def _read_parts(profile: str | None) -> tuple[str, ...]:
    try:
        return tuple(map(str, json.loads(profile or "{}").get(PARTS, ())))
    except (ValueError, TypeError, AttributeError):  # other programs log datasets, too
        return ()
