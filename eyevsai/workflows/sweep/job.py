"""A job of train-all: one model on one dataset, trained, evaluated and exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eyevsai.config import OF_TRAIN, compose, compose_run, compose_train, find_state_dir
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
from eyevsai.workflows.tune.study_config import compose_tune
from eyevsai.workflows.tune.tune import tune

CALL = "eyevsai.workflows.sweep.job:run_job"


def run_job(given: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is left to do of a job, and return the URI of its version.

    `given` has the settings of `train`, the `parent` run and the `fingerprint`; with `trials`, a
    study of that many comes first. What the store or this machine has of the job is used
    unless `force` is true. `evaluate` and `formats` say what is done with the version.
    """
    settings, tags = given["train"], {PARENT: given["parent"]}
    with ending_with_parent():
        before = CachedResult() if given["force"] else _find_cached(given)
        uri = before.version.uri if before.version else _train(given, before.interrupted)
        version = {"model_uri": uri, "state_dir": compose_run(settings).state_dir}
        if given["evaluate"]:
            evaluate(compose(EvaluateSettings, version), tags=tags)
        if given["formats"]:
            export(compose(ExportSettings, {**version, "format": given["formats"]}), tags=tags)
        return {"model_uri": uri}


def _find_cached(given: Mapping[str, Any]) -> CachedResult:
    """Find what earlier attempts of this job left: Ray starts a job again whose node was lost."""
    state_dir = find_state_dir(given["train"])
    return find_cached(open_store_and_reap(state_dir), given["fingerprint"], state_dir)


def _train(given: Mapping[str, Any], interrupted: str | None) -> str:
    settings, parent = dict(given["train"]), {PARENT: given["parent"]}
    if interrupted:
        settings["resume"] = interrupted
    elif given["trials"]:
        trials = {name: value for name, value in settings.items() if name not in OF_TRAIN}
        found = tune(
            compose_tune({**trials, "n_trials": given["trials"], "study": given["study"]}),
            tags=parent,
        )
        settings["tuned"] = found.run_id
    done = train(compose_train(settings), tags={**parent, JOB_FINGERPRINT: given["fingerprint"]})
    if done.model_uri is None:
        raise JobError(
            f"Run {done.run_id} has no version yet, since the store does not answer. Later: "
            "eyevsai sync"
        )
    return done.model_uri
