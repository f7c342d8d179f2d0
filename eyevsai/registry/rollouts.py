"""Registry of a rollout: its tag and aliases, entries of the audit log, and its MLflow run.

All writes are repeatable: a decision that was written before is written again without a trace.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import UserError
from eyevsai.core.retry import retry_on_conflict
from eyevsai.registry.audit_log import EXPERIMENT, TAG_LENGTH, recording_audit
from eyevsai.registry.audit_tags import model_tag
from eyevsai.registry.rollout_tag import TAG, RolloutTag, parse_tag
from eyevsai.store.paging import list_experiments
from eyevsai.store.tags import JOB

ALIAS = "candidate"
JOB_NAME = "rollout"
MODEL = "rollout.model"  # tag of the run: registered model
APPLIED = "rollout.seq"  # tag of the run: last decision that was written completely
STATE, REASON = "rollout.state", "rollout.reason"  # tags of the run
# tags of an audit entry, by which a decision is found again
AUDIT_RUN, AUDIT_SEQ = "rollout_run", "rollout_seq"
REQUESTS = "requests"  # metric, and step of all metrics
RUNNING = "RUNNING"
NO_RUN = 2**62  # above all numbers of decisions and requests


@dataclass(frozen=True)
class WrittenDecision:
    """Decision as the registry and the audit log get it."""

    seq: int
    at: float  # seconds since 1970
    kind: str
    state: str  # name of the state after it
    reason: str


class RolloutRecords:
    """Records of the rollouts of one registered model.

    Args:
        client: client of the store.
        model: name of the registered model.
    """

    def __init__(self, client: MlflowClient, model: str) -> None:
        self.client, self.model = client, model

    def aliases(self) -> dict[str, int]:
        """Return the aliases of the model."""
        aliases = self.client.get_registered_model(self.model).aliases
        return {alias: int(version) for alias, version in aliases.items()}

    def tag_seq(self) -> int:
        """Return the number in the tag of the model; 0 without a valid tag."""
        return seq_of(self.client.get_registered_model(self.model).tags.get(TAG))

    def write_tag(self, tag: RolloutTag) -> None:
        """Write the tag of the model, unless it is there or one with a higher number is."""
        text = self.client.get_registered_model(self.model).tags.get(TAG)
        if text == tag.to_json() or seq_of(text) > tag.seq:
            return
        retry_on_conflict(
            lambda: self.client.set_registered_model_tag(self.model, TAG, tag.to_json())
        )

    def write_alias(self, version: int, *, is_over: bool) -> None:
        """Set the alias of the candidate; after the rollout, remove it.

        One that was moved to another version by hand is not removed.

        Args:
            version: the candidate.
            is_over: the rollout is over.
        """
        current = self.aliases().get(ALIAS)
        if is_over and current == version:
            retry_on_conflict(lambda: self.client.delete_registered_model_alias(self.model, ALIAS))
        elif not is_over and current != version:
            retry_on_conflict(
                lambda: self.client.set_registered_model_alias(self.model, ALIAS, str(version))
            )

    def audit(
        self,
        run_id: str,
        decision: WrittenDecision,
        *,
        before: int,
        after: int,
        origin: Mapping[str, str],
    ) -> None:
        """Record a decision in the audit log, unless it is recorded.

        Args:
            run_id: run of the rollout.
            decision: the decision.
            before: version in Production.
            after: candidate.
            origin: tags that describe this process.
        """
        entry = self._find_entry(run_id, decision.seq)
        if entry is not None:
            if entry.info.status != "FINISHED":  # its writer was killed
                self.client.set_terminated(entry.info.run_id, "FINISHED")
            return
        tags = {
            **origin,
            "model": self.model,
            model_tag(self.model): after,
            AUDIT_RUN: run_id,
            AUDIT_SEQ: decision.seq,
            "before": before,
            "after": after,
            "rollout_state": decision.state,
            "reason": decision.reason or decision.state,
        }
        title = f"{self.model} {after} rollout: {decision.state}"
        with recording_audit(self.client, JOB_NAME, title, tags):
            pass

    def log_metrics(self, run_id: str, values: Mapping[str, float], at: float) -> None:
        """Log metrics of a run at the number of requests in `values`; repeatable with one `at`."""
        step, at_ms = int(values[REQUESTS]), int(at * 1000)
        metrics = [Metric(name, value, at_ms, step) for name, value in values.items()]
        retry_on_conflict(lambda: self.client.log_batch(run_id, metrics=metrics))

    def log_params(self, run_id: str, values: Mapping[str, object]) -> None:
        """Log parameters of a run."""
        params = [Param(name, str(value)) for name, value in values.items()]
        retry_on_conflict(lambda: self.client.log_batch(run_id, params=params))

    def run(self, run_id: str) -> Run:
        """Return the run of a rollout."""
        return self.client.get_run(run_id)

    def applied_seq(self, run_id: str) -> int:
        """Return the number of the last decision that was written completely.

        It is `NO_RUN` if somebody deleted the run: nothing is left to be written.
        """
        run = self._find_run(run_id)
        return NO_RUN if run is None else int(run.data.tags.get(APPLIED, 0))

    def logged_requests(self, run_id: str) -> int:
        """Return the number of requests of the last metrics; `NO_RUN` if the run was deleted."""
        run = self._find_run(run_id)
        return NO_RUN if run is None else int(run.data.metrics.get(REQUESTS, 0))

    def curves(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Return the metrics of a run by name, as pairs of the number of requests and the value."""
        names = sorted(self.run(run_id).data.metrics)
        histories = {name: self.client.get_metric_history(run_id, name) for name in names}
        return {
            name: [
                (metric.step, metric.value)
                for metric in sorted(history, key=lambda each: (each.step, each.timestamp))
            ]
            for name, history in histories.items()
        }

    def write_run(self, run_id: str, decision: WrittenDecision, status: str | None) -> None:
        """Write the state to the run, end it, and mark the decision as written, in this order.

        Args:
            run_id: run of the rollout.
            decision: last decision.
            status: status of a run that ends; None while the rollout is active.
        """
        values = {STATE: decision.state, REASON: decision.reason}
        tags = [RunTag(name, value[:TAG_LENGTH]) for name, value in values.items()]
        retry_on_conflict(lambda: self.client.log_batch(run_id, tags=tags))
        if status is not None and self.run(run_id).info.status == RUNNING:
            retry_on_conflict(
                lambda: self.client.set_terminated(run_id, status, int(decision.at * 1000))
            )
        retry_on_conflict(lambda: self.client.set_tag(run_id, APPLIED, str(decision.seq)))

    def end_orphans(self) -> None:
        """End the runs of rollouts that were interrupted before their first decision.

        Call it while no rollout of the model is active.
        """
        ids = [each.experiment_id for each in list_experiments(self.client)]
        filter_string = (
            f"attributes.status = '{RUNNING}' and tags.`{JOB}` = '{JOB_NAME}' "
            f"and tags.`{APPLIED}` = '0'"
        )
        for run in self.client.search_runs(ids, filter_string):
            if run.data.tags.get(MODEL) == self.model:
                retry_on_conflict(partial(self.client.set_terminated, run.info.run_id, "KILLED"))

    def _find_run(self, run_id: str) -> Run | None:
        """Return the run of a rollout; None if it was deleted."""
        try:
            run = self.run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _find_entry(self, run_id: str, seq: int) -> Run | None:
        """Return the audit entry of a decision; None if there is none."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return None
        filter_string = f"tags.`{AUDIT_RUN}` = '{run_id}' and tags.`{AUDIT_SEQ}` = '{seq}'"
        entries: Sequence[Run] = self.client.search_runs([experiment.experiment_id], filter_string)
        return entries[0] if entries else None


def seq_of(text: str | None) -> int:
    """Return the number in the value of a tag; 0 if it is missing or was changed by hand."""
    with suppress(UserError):
        return 0 if text is None else parse_tag(text).seq
    return 0


def run_tags(model: str, version: int) -> dict[str, str]:
    """Return the tags of the run of a new rollout."""
    return {
        JOB: JOB_NAME,
        MODEL: model,
        APPLIED: "0",
        "model_uri": f"models:/{model}/{version}",
        "rollout.started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
