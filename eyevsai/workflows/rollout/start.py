"""Workflow of `rollout start`: checks of the candidate, and the first decision."""

from __future__ import annotations

import logging
import secrets
import time

from eyevsai.core.errors import UserError
from eyevsai.core.model_ref import SCHEME
from eyevsai.core.shell import quote
from eyevsai.registry.audit_log import tag_call
from eyevsai.registry.settings import find_policy, read_policy
from eyevsai.registry.versions import Version
from eyevsai.rollout.decision import check_startable
from eyevsai.rollout.policy import RolloutPolicy, read_rollout_policy
from eyevsai.rollout.state import RolloutState
from eyevsai.store.tags import JOB
from eyevsai.workflows.drift_reference import load_reference
from eyevsai.workflows.evaluate.compare import read_predictions
from eyevsai.workflows.registry.class_lists import compare_with_stage
from eyevsai.workflows.registry.promote import NotPromotedError, run_checks
from eyevsai.workflows.registry.promotion_checks import common_evaluations
from eyevsai.workflows.registry.transaction import RegistryTransaction, registry_transaction
from eyevsai.workflows.rollout.run import follow
from eyevsai.workflows.rollout.session import RolloutSession, rollout_session
from eyevsai.workflows.rollout.settings import RolloutSettings
from eyevsai.workflows.rollout.status import RolloutStatus, read_status
from eyevsai.workflows.trained_model import find_trained_model

log = logging.getLogger("eyevsai")

STAGE = "production"


def start(settings: RolloutSettings, run_id: str | None = None) -> RolloutStatus:
    """Start a rollout, and follow it to its end unless `settings.detach` is set.

    If the same version is being rolled out, nothing is started.

    Args:
        settings: candidate, plan and policies.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.

    Raises:
        UserError: the model or the version does not exist, nothing is in Production, another
            rollout is active, or a policy is invalid.
        NotPromotedError: the candidate fails a promotion check.
        JobError: the store or the log failed.
    """
    policy = read_rollout_policy(settings.policy, settings.plan)
    with rollout_session(settings, run_id) as session:
        version = settings.version or session.number
        if version is None:
            raise UserError(
                f"Which version of {session.model}? Add --version; list them with: eyevsai "
                f"registry status {quote(session.model)}"
            )
        tags = {JOB: "rollout", "model_uri": f"{SCHEME}{session.model}/{version}"}
        tag_call(session.writer.client, run_id, f"rollout {session.model} {version}", tags)
        current = session.controller.read()
        if current is None or current.is_over or current.candidate != version:
            state = prepare(session, settings, policy, version)
            with session.stop.shielded():
                state = session.controller.start(state)
            log.info(
                "Rollout of %s %d started: %s. Run %s",
                session.model,
                version,
                policy.plan,
                state.run_id,
            )
        if not settings.detach:
            follow(session, settings.every_s)
        return read_status(session)


def prepare(
    session: RolloutSession, settings: RolloutSettings, policy: RolloutPolicy, version: int
) -> RolloutState:
    """Return the first state of a rollout, after the checks of the candidate.

    Args:
        session: session of the command.
        settings: settings of the command.
        policy: policy of the rollout.
        version: candidate.

    Raises:
        UserError: the version does not exist or has no reference, or nothing is in Production.
        NotPromotedError: the candidate fails a promotion check.
    """
    promotion_policy = find_policy(settings.promotion_policy)
    promotion_path = None if promotion_policy is None else str(promotion_policy)
    reference = f"{SCHEME}{session.model}"
    with registry_transaction(reference, session.writer.state_dir) as transaction:
        candidate, current = transaction.target(version), transaction.current_version(STAGE)
        if current is None:
            raise UserError(
                f"{session.model} has no version in Production, which the candidate would be "
                f"compared with. Promote one: eyevsai promote {quote(session.model)} --version "
                f"{version}"
            )
        check_startable(session.controller.read(), version, current)
        _check_gate(transaction, candidate, promotion_path, settings)
        load_reference(find_trained_model(session.tracking_uri, candidate.uri))
        now = time.time()
        return RolloutState(
            model=session.model,
            run_id="",
            candidate=version,
            production=current,
            salt=secrets.token_hex(16),
            policy=policy,
            started_at=now,
            step_at=now,
            expected_disagreement=_measure_disagreement(transaction, candidate, current),
            promotion_policy=promotion_path,
            class_change=settings.class_change,
        )


def _check_gate(
    transaction: RegistryTransaction,
    candidate: Version,
    promotion_policy: str | None,
    settings: RolloutSettings,
) -> None:
    """Raise NotPromotedError if the candidate would not be promoted.

    Args:
        transaction: transaction on the registered model.
        candidate: version to roll out.
        promotion_policy: path of the promotion policy; None for the default.
        settings: settings of the command.
    """
    number = int(candidate.number)
    dataset = candidate.tags.get("dataset") or transaction.model().tags.get("dataset", "")
    policy = read_policy(promotion_policy, dataset)
    results = run_checks(transaction, STAGE, number, policy)
    classes = compare_with_stage(transaction, STAGE, number)
    failed = list(results.failed_checks)
    check = classes.check(consented=settings.class_change)
    if not check.ok:
        failed.append(check.text)
    if failed:
        refusals = "\n".join(f"- {text}" for text in failed)
        raise NotPromotedError(
            f"{candidate.uri} is not rolled out, because it would not be promoted:\n{refusals}\n"
            "Nothing was changed."
        )


def _measure_disagreement(
    transaction: RegistryTransaction, candidate: Version, current: int
) -> float:
    """Return the share of test images that the candidate and Production label differently.

    Args:
        transaction: transaction on the registered model.
        candidate: version to roll out.
        current: version in Production.
    """
    uri = transaction.tracking_uri
    evaluations = common_evaluations(uri, candidate, transaction.version(current))
    if evaluations is None:  # the checks of the policy have passed without one
        return 0.0
    ours, theirs = (read_predictions(uri, each.run_id) or {} for each in evaluations)
    images = ours.keys() & theirs.keys()
    differing = sum(ours[image][1] != theirs[image][1] for image in images)
    return differing / len(images) if images else 0.0
