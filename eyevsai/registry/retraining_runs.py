"""State of the retraining of a registered model, stored in the tags of one run.

Any process with access to the store continues from it. The run is not RUNNING between the calls, so
that no process has to keep it alive.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from eyevsai.core.errors import JobError
from eyevsai.core.retry import retry_on_conflict
from eyevsai.registry.experiments import ensure_experiment
from eyevsai.store.paging import PAGE_SIZE, iter_pages
from eyevsai.store.tags import JOB

EXPERIMENT = "eyevsai-retraining"
ABOUT = "State of the retraining of each model: `eyevsai watch NAME`."
MODEL = "eyevsai.retraining_of"  # tag of a run: the registered model
RECORD = "eyevsai.retraining"  # tag of a run: the state, as JSON
ALERTS = "eyevsai.unsent_alerts"  # tag of a run: the outbox of its alerts, as JSON
STATE, DETAILS = "state", "details"  # tags for people
CANDIDATE = "candidate"  # alias of a version that passed the promotion checks
MAX_RECORD = 4900  # characters of a tag that all versions of MLflow store


class RetrainingRun:
    """Run with the state of the retraining of a model.

    Only the holder of the model's lease may write.

    Args:
        client: client of the store.
        run_id: id of the run.
    """

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id

    def load(self) -> dict[str, Any]:
        """Return the stored state as JSON values; {} if there is none yet.

        Raises:
            JobError: the tag was changed, and is not valid JSON.
        """
        return self._load(RECORD)

    def load_alerts(self) -> dict[str, Any]:
        """Return the stored outbox of alerts as JSON values; {} if there is none yet.

        Raises:
            JobError: the tag was changed, and is not valid JSON.
        """
        return self._load(ALERTS)

    def _load(self, name: str) -> dict[str, Any]:
        text = self.client.get_run(self.run_id).data.tags.get(name, "{}")
        try:
            values = json.loads(text)
        except ValueError as error:
            raise JobError(
                f"The tag {name} of run {self.run_id} was changed by hand: it is not valid JSON. "
                "Correct it, or delete the tag to begin anew."
            ) from error
        if not isinstance(values, dict):
            raise JobError(f"The tag {name} of run {self.run_id} is no JSON object. Delete it.")
        return values

    def save(
        self,
        values: Mapping[str, Any],
        state: str,
        details: str,
        alerts: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the state, and a sentence about it for people, in one request.

        Args:
            values: JSON values of the state.
            state: name of the state.
            details: reasons, version and error in a few words.
            alerts: JSON values of the outbox; None to leave it as it is.

        Raises:
            JobError: the state is too large for a tag.
        """
        tags = {RECORD: _encode(values, "state"), STATE: state, DETAILS: details[:MAX_RECORD]}
        self._save(tags if alerts is None else tags | {ALERTS: _encode(alerts, "outbox")})

    def save_alerts(self, values: Mapping[str, Any]) -> None:
        """Store the outbox of alerts.

        Raises:
            JobError: it is too large for a tag.
        """
        self._save({ALERTS: _encode(values, "outbox")})

    def _save(self, tags: Mapping[str, str]) -> None:
        run_tags = [RunTag(name, value) for name, value in tags.items()]
        retry_on_conflict(lambda: self.client.log_batch(self.run_id, tags=run_tags))

    def log_metrics(self, values: Mapping[str, float]) -> None:
        """Log metrics at the current time; the step is the time in minutes since 1970."""
        now = datetime.now(UTC).timestamp()
        metrics = [
            Metric(name, value, int(now * 1000), int(now // 60)) for name, value in values.items()
        ]
        retry_on_conflict(lambda: self.client.log_batch(self.run_id, metrics=metrics))

    def log_json(self, name: str, content: Any) -> None:
        """Log a value as a JSON artifact at the path `name`."""
        self.client.log_dict(self.run_id, content, name)


def _encode(values: Mapping[str, Any], what: str) -> str:
    """Return values as JSON; raise JobError if they are too large for a tag."""
    text = json.dumps(values, separators=(",", ":"), ensure_ascii=False)
    if len(text) > MAX_RECORD:
        raise JobError(f"The {what} of the retraining has {len(text)} characters: too many.")
    return text


def find_retraining_run(client: MlflowClient, name: str) -> RetrainingRun | None:
    """Return the run of a registered model; None if `watch` was never called for it."""
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None or experiment.lifecycle_stage != "active":
        return None
    ids = [experiment.experiment_id]
    runs = iter_pages(
        lambda token: client.search_runs(
            ids, "", max_results=PAGE_SIZE, order_by=["start_time ASC"], page_token=token
        )
    )
    # by value, not by a filter: MLflow's filters cannot quote each name
    ours = (run for run in runs if run.data.tags.get(MODEL) == name)
    first = next(ours, None)
    return None if first is None else RetrainingRun(client, first.info.run_id)


def open_retraining_run(client: MlflowClient, name: str) -> RetrainingRun:
    """Return the run of a registered model, and create it if there is none.

    Call it with the lease of the model, so that there is one run.

    Args:
        client: client of the store.
        name: name of the registered model.
    """
    existing = find_retraining_run(client, name)
    if existing is not None:
        return existing
    experiment_id = ensure_experiment(client, EXPERIMENT, ABOUT)
    tags = {MODEL: name, JOB: "retraining", "mlflow.source.name": "eyevsai"}
    run = retry_on_conflict(
        lambda: client.create_run(experiment_id, tags=tags, run_name=f"retraining of {name}"[:250])
    )
    retry_on_conflict(lambda: client.set_terminated(run.info.run_id, "FINISHED"))
    return RetrainingRun(client, run.info.run_id)


def set_candidate(client: MlflowClient, name: str, version: int) -> None:
    """Give a version the alias `candidate`.

    Args:
        client: client of the store.
        name: name of the registered model.
        version: number of the version.
    """
    retry_on_conflict(lambda: client.set_registered_model_alias(name, CANDIDATE, str(version)))
