"""Actions that decide about a new version: the gate, a rollout, or a person."""

from __future__ import annotations

import logging

from eyevsai.registry.entities import read_model
from eyevsai.registry.lookup import find_version
from eyevsai.registry.retraining_runs import CANDIDATE, set_candidate
from eyevsai.registry.stages import stage_holder
from eyevsai.retraining.record import Ended, Event, Passed, Refused, Retraining, RolloutStarted
from eyevsai.rollout.state import RolloutState
from eyevsai.workflows.registry.promote import NotPromotedError
from eyevsai.workflows.watch import rollouts, steps
from eyevsai.workflows.watch.context import WatchContext, version_of
from eyevsai.workflows.watch.gate import GateRules, check_candidate

log = logging.getLogger("eyevsai")


def check(context: WatchContext, record: Retraining) -> Event | None:
    """Check the new version; if it passes, it gets the alias `candidate`.

    Returns None during a rollout of another version, which has that alias.
    """
    if _waits_for_other(context, record, rollouts.find_rollout(context.settings, context.model)):
        return None
    if context.production != record.production:
        # promoted while this one was trained, or waited: it was not evaluated on `recent`
        steps.evaluate(context, record)
    version, production = (
        find_version(context.job.tracking_uri, context.uri(number))
        for number in (record.version, context.production)
    )
    rules = context.policy.rules
    result = check_candidate(
        context.job.tracking_uri,
        version,
        None if version.number == production.number else production,
        context.frozen(record),
        GateRules(rules.promotion_policy, rules.recent_tolerance),
    )
    context.run.log_json(f"checks/{record.version}.json", vars(result))
    context.run.log_metrics(result.metrics)
    if result.failed:
        return Refused(result.failed)
    set_candidate(context.client, context.model, int(version.number))
    return Passed()


def start_rollout(context: WatchContext, record: Retraining) -> Event | None:
    """Start the gradual rollout of the candidate; None during that of another version."""
    version, current = version_of(record), rollouts.find_rollout(context.settings, context.model)
    if _waits_for_other(context, record, current):
        return None
    # one that a watcher started before it was killed can have ended: it is not repeated
    if current and current.candidate == version and current.started_at >= record.since:
        return RolloutStarted()
    try:
        rollouts.start_rollout(context.settings, context.policy.rules, context.model, version)
    except NotPromotedError as error:  # the policy or the version in Production changed
        return Ended(f"refused by the rollout: {error}")
    return RolloutStarted()


def follow_rollout(context: WatchContext, record: Retraining) -> Event | None:
    """Return the outcome of the rollout; None before its end."""
    outcome = rollouts.read_outcome(context.settings, context.model, version_of(record))
    return None if outcome is None else Ended(outcome)


def follow_person(context: WatchContext, record: Retraining) -> Event | None:
    """Return what a person has decided about the candidate; None while it waits."""
    model = read_model(context.client, context.model)
    if stage_holder(model, "production").version == record.version:
        return Ended("promoted by a person")
    if record.version not in {each.number for each in model.versions}:
        return Ended("deleted by a person")
    if model.aliases.get(CANDIDATE) != record.version:
        return Ended("rejected by a person, who removed the alias candidate")
    return None


def _waits_for_other(
    context: WatchContext, record: Retraining, rollout: RolloutState | None
) -> bool:
    """Return True during a rollout of another version than the new one."""
    if rollout is None or rollout.is_over or rollout.candidate == record.version:
        return False
    text = f"version {record.version} waits for the rollout of version {rollout.candidate}"
    log.warning("%s: %s", context.model, text)
    return True
