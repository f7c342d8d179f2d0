"""Rollout of a candidate by a watcher."""

from __future__ import annotations

from eyevsai.retraining.settings import RetrainingPolicy
from eyevsai.rollout.state import RolloutState
from eyevsai.workflows.rollout.run import step
from eyevsai.workflows.rollout.session import rollout_session
from eyevsai.workflows.rollout.settings import RolloutSettings, StepSettings
from eyevsai.workflows.rollout.start import start
from eyevsai.workflows.watch.settings import WatchSettings


def find_rollout(settings: WatchSettings, model: str) -> RolloutState | None:
    """Return the state of the current or last rollout of a model; None if there was none.

    Raises:
        JobError: the store or the log failed.
    """
    call = StepSettings(name=model, once=True, log=settings.log, state_dir=settings.state_dir)
    with rollout_session(call) as session:
        return session.controller.read()


def start_rollout(
    settings: WatchSettings, rules: RetrainingPolicy, model: str, version: int
) -> None:
    """Start the rollout of a version, unless it is being rolled out already.

    Args:
        settings: settings of the call, with the inference log.
        rules: policy with the files of the rollout and the promotion policy.
        model: name of the registered model.
        version: number of the candidate.

    Raises:
        UserError: another rollout is active, or a policy is invalid.
        NotPromotedError: the candidate fails a promotion check.
    """
    start(
        RolloutSettings(
            name=model,
            version=version,
            policy=rules.rollout_policy,
            promotion_policy=rules.promotion_policy,
            detach=True,
            log=settings.log,
            state_dir=settings.state_dir,
        )
    )


def read_outcome(settings: WatchSettings, model: str, version: int) -> str | None:
    """Look at the rollout of a version once, which advances or ends it; return how it ended.

    Returns None before its end. Other controllers may look at it more often.

    Args:
        settings: settings of the call, with the inference log.
        model: name of the registered model.
        version: number of the candidate.

    Raises:
        JobError: the store or the log failed.
    """
    status = step(
        StepSettings(name=model, once=True, log=settings.log, state_dir=settings.state_dir)
    )
    state = status.state
    if state is None or state.candidate != version:
        return "ended: the rollout was replaced by another one"
    if not state.is_over:
        return None
    phase = str(state.phase).replace("_", " ")
    return f"{phase}: {state.reason}" if state.reason else phase
