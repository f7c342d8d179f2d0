"""Writes of a decision to the registry, the audit log and the MLflow run of a rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eyevsai.core.errors import JobError, UserError
from eyevsai.registry.audit_log import read_log
from eyevsai.registry.entities import Client
from eyevsai.registry.rollouts import REQUESTS, RolloutRecords, WrittenDecision, run_tags
from eyevsai.registry.settings import PromoteSettings
from eyevsai.rollout.evidence import Evidence
from eyevsai.rollout.log import Decision
from eyevsai.rollout.routing import PRODUCTION
from eyevsai.rollout.state import Kind, Phase, RolloutState
from eyevsai.tracking.liveness import owner_tags
from eyevsai.tracking.owner_marks import mark_run
from eyevsai.tracking.run_creation import DATASET, NewRun, create_run
from eyevsai.workflows.registry.promote import NotPromotedError, promote

# status of the run of a rollout that is over
STATUSES = {
    Phase.PROMOTED: "FINISHED",
    Phase.ROLLED_BACK: "FAILED",
    Phase.REFUSED: "FAILED",
    Phase.ABORTED: "KILLED",
}


class RegistryWriter:
    """`RolloutRegistry` in MLflow.

    Args:
        client: client of the store.
        model: name of the registered model.
        state_dir: folder of run state on this machine.
        dataset: dataset of the model, whose experiment gets the run; empty if it is unknown.
    """

    def __init__(self, client: Client, model: str, state_dir: Path, dataset: str = "") -> None:
        self.client, self.model, self.state_dir, self.dataset = client, model, state_dir, dataset
        self.records = RolloutRecords(client, model)

    def aliases(self) -> Mapping[str, int]:
        return self.records.aliases()

    def tag_seq(self) -> int:
        return self.records.tag_seq()

    def applied_seq(self, run_id: str) -> int:
        return self.records.applied_seq(run_id)

    def logged_requests(self, run_id: str) -> int:
        return self.records.logged_requests(run_id)

    def create_run(self, version: int) -> str:
        self.records.end_orphans()
        tags = run_tags(self.model, version)
        tags |= {DATASET: self.dataset} if self.dataset else {}
        run_id = create_run(self.client, NewRun(f"rollout {self.model} {version}", tags))
        mark_run(self.client, run_id)
        return run_id

    def ensure_tag(self, state: RolloutState) -> None:
        self.records.write_tag(state.tag())

    def log_evidence(self, state: RolloutState, evidence: Evidence, at: float) -> None:
        self.records.log_metrics(state.run_id, metrics_of(state, evidence.to_json()), at)

    def apply(self, state: RolloutState, pending: Sequence[Decision]) -> None:
        for write in self._writes(state, pending):
            write()

    def promote(self, state: RolloutState) -> str:
        if self._is_promoted(state):
            return ""
        settings = PromoteSettings(
            name=self.model,
            version=state.candidate,
            policy=state.promotion_policy,
            class_change=state.class_change,
            reason=f"rollout, run {state.run_id}",
            state_dir=str(self.state_dir),
        )
        try:
            promote(settings)
        except NotPromotedError as error:
            return str(error)
        except JobError:  # the store failed: the next look tries again
            raise
        except UserError as error:  # for example, the policy file is missing
            return str(error)
        return ""

    def _is_promoted(self, state: RolloutState) -> bool:
        """Return True if the candidate is in Production, and its promotion was completed."""
        if self.aliases().get(PRODUCTION) != state.candidate:
            return False
        entries = [
            each for each in read_log(self.client, self.model) if each.is_effective(PRODUCTION)
        ]
        return bool(entries) and (entries[-1].action, entries[-1].after) == (
            "promote",
            state.candidate,
        )

    def _writes(
        self, state: RolloutState, pending: Sequence[Decision]
    ) -> Iterator[Callable[[], None]]:
        """Yield the writes of decisions: servers first, and last the mark that all are complete."""
        yield partial(self.records.write_tag, state.tag())
        yield partial(self.records.write_alias, state.candidate, is_over=state.is_over)
        for decision in pending:
            after = RolloutState.from_json(decision.content["state"])
            yield partial(
                self.records.audit,
                state.run_id,
                written(decision),
                before=state.production,
                after=state.candidate,
                origin=owner_tags(),
            )
            if decision.kind == Kind.START:
                yield partial(self.records.log_params, state.run_id, params_of(after))
            evidence = decision.content.get("evidence") or {}
            values = metrics_of(after, evidence)
            yield partial(self.records.log_metrics, state.run_id, values, decision.at)
        if pending:
            last, status = written(pending[-1]), STATUSES.get(state.phase)
            yield partial(self.records.write_run, state.run_id, last, status)


def written(decision: Decision) -> WrittenDecision:
    """Return a decision as the registry gets it."""
    state = RolloutState.from_json(decision.content["state"])
    return WrittenDecision(decision.seq, decision.at, decision.kind, state.name, state.reason)


def metrics_of(state: RolloutState, evidence: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a rollout: share, number of the step, and log E of each test.

    Args:
        state: state of the rollout.
        evidence: JSON values of the evidence; empty for none.
    """
    values = {
        REQUESTS: float(evidence.get("requests", 0)),
        "share": state.tag().fraction,
        "step": float(state.position + 1),
    }
    log_e = evidence.get("log_e", {})
    return values | {f"log_evidence/{name}": float(value) for name, value in log_e.items()}


def params_of(state: RolloutState) -> dict[str, Any]:
    """Return the parameters of the run of a rollout."""
    values = {"production": state.production, "candidate": state.candidate} | vars(state.policy)
    return {name: value for name, value in values.items() if value is not None}
