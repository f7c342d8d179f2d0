"""Job of `train-all`: train, evaluate and export one model on one dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eyevsai.config import TRAIN_ONLY, compose, compose_run, compose_train, find_state_dir
from eyevsai.core.errors import JobError
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.formats.settings import ExportSettings
from eyevsai.store.tags import JOB_FINGERPRINT, PARENT
from eyevsai.workflows.evaluate.evaluate import evaluate
from eyevsai.workflows.export.export import export
from eyevsai.workflows.job_context import open_store_and_reap
from eyevsai.workflows.shutdown import ending_with_parent
from eyevsai.workflows.sweep.grid import CachedResult, find_cached
from eyevsai.workflows.train.train import train
from eyevsai.workflows.tune.settings import compose_tune
from eyevsai.workflows.tune.tune import tune

CALL = "eyevsai.workflows.sweep.job:run_job"


def run_job(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Run the missing steps of a job, and return the URI of its version as `model_uri`.

    Args:
        arguments: plain values by name.
            train: explicit settings of `train`.
            parent: id of the sweep's run.
            fingerprint: fingerprint of the job, by which its cached result is found.
            trials: trials of a study before training; 0 for none.
            study: name of that study.
            force: train even if there is a cached version or an interrupted run.
            evaluate: evaluate the version.
            formats: comma-separated formats to export the version to; may be empty.

    Raises:
        UserError: a step failed; JobError if the version could not be registered yet.
    """
    settings, tags = arguments["train"], {PARENT: arguments["parent"]}
    with ending_with_parent():
        cached = CachedResult() if arguments["force"] else _find_cached(arguments)
        uri = cached.version.uri if cached.version else _train(arguments, cached.interrupted)
        version = {"model_uri": uri, "state_dir": compose_run(settings).state_dir}
        if arguments["evaluate"]:
            evaluate(compose(EvaluateSettings, version), tags=tags)
        if arguments["formats"]:
            export(compose(ExportSettings, {**version, "format": arguments["formats"]}), tags=tags)
        return {"model_uri": uri}


def _find_cached(arguments: Mapping[str, Any]) -> CachedResult:
    """Return the result of earlier attempts; Ray restarts a job if its node was lost."""
    state_dir = find_state_dir(arguments["train"])
    return find_cached(open_store_and_reap(state_dir), arguments["fingerprint"], state_dir)


def _train(arguments: Mapping[str, Any], interrupted: str | None) -> str:
    """Resume the run `interrupted`, or tune and train; return the URI of the version."""
    settings, parent = dict(arguments["train"]), {PARENT: arguments["parent"]}
    if interrupted:
        settings["resume"] = interrupted
    elif arguments["trials"]:
        trials = {name: value for name, value in settings.items() if name not in TRAIN_ONLY}
        trials |= {"n_trials": arguments["trials"], "study": arguments["study"]}
        settings["tuned"] = tune(compose_tune(trials), tags=parent).run_id
    tags = {**parent, JOB_FINGERPRINT: arguments["fingerprint"]}
    trained = train(compose_train(settings), tags=tags)
    if trained.model_uri is None:
        raise JobError(
            f"Run {trained.run_id} has no version yet: the tracking server is unreachable. Run "
            "eyevsai sync later."
        )
    return trained.model_uri
