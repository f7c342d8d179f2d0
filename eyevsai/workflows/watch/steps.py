"""Actions that an executor runs in processes of their own: tuning, training and evaluation.

Each can be repeated after a kill: what is complete is found and not computed again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from eyevsai.config import PLANNED, TRAIN_ONLY, model_settings
from eyevsai.core.errors import JobError
from eyevsai.core.model_ref import parse_version_uri
from eyevsai.core.settings import Setting
from eyevsai.data.settings import DataSettings
from eyevsai.executors.base import State as TaskState
from eyevsai.executors.base import Task
from eyevsai.executors.factory import count_cpus, make_executor
from eyevsai.formats.factory import PASSED
from eyevsai.models.factory import resolve_model
from eyevsai.registry.lookup import find_version
from eyevsai.registry.settings import read_policy
from eyevsai.registry.versions import Version, exports_of
from eyevsai.retraining.record import Evaluated, Event, Retraining, Trained, Tuned
from eyevsai.store.tags import JOB, JOB_FINGERPRINT
from eyevsai.tracking.search import find_tagged
from eyevsai.workflows.job_context import open_store_and_reap
from eyevsai.workflows.sweep.job import CALL as TRAIN
from eyevsai.workflows.trained_model import TrainedModel
from eyevsai.workflows.watch.context import WatchContext
from eyevsai.workflows.watch.freeze import training_values
from eyevsai.workflows.watch.settings import FIXED
from eyevsai.workflows.watch.tasks import EVALUATE, TUNE

log = logging.getLogger("eyevsai")

OLD_RUN_S = 30.0  # a training of a watcher that was killed has this long to end


def tune(context: WatchContext, record: Retraining) -> Event:
    """Tune the model on the frozen data."""
    values = _training(context, record, is_tuned=True)
    trials = {name: value for name, value in values.items() if name not in TRAIN_ONLY} | {
        "n_trials": context.policy.rules.trials,
        "study": f"{context.model}-{record.key[:8]}",
    }
    result, seconds = _run_task(context, "tune", TUNE, {"trials": trials})
    return Tuned(str(result["study"]), seconds)


def train(context: WatchContext, record: Retraining) -> Event | None:
    """Train on the frozen data, or resume it; None while an earlier process still trains."""
    if not _wait_for_earlier(context, record.key):
        return None
    is_tuned = bool(record.study)
    values = _training(context, record, is_tuned=is_tuned)
    values |= {"tuned": record.study or "never"}
    arguments = {
        "train": values,
        "fingerprint": record.key,
        "trials": 0,
        "study": "",
        "force": False,
        "evaluate": False,
        "formats": "",
    }
    result, seconds = _run_task(context, "train", TRAIN, arguments)
    source = parse_version_uri(str(result["model_uri"]))
    if source is None or source[0] != context.model:
        raise JobError(f"The training registered {result['model_uri']}, not {context.model}.")
    return Trained(source[1], seconds)


def evaluate(context: WatchContext, record: Retraining) -> Event:
    """Evaluate the new version and the one in Production on both test splits."""
    frozen = context.frozen(record)
    production = find_version(context.job.tracking_uri, context.uri(context.production))
    recent = frozen.recent
    arguments = {
        "versions": [context.uri(record.version), context.uri(context.production)],
        "recent": None if recent is None else str(recent),
        "class_map": str(frozen.recent_map),
        "formats": ",".join(_formats(production, context.policy.rules.promotion_policy)),
        "state_dir": context.settings.state_dir,
    }
    _, seconds = _run_task(context, "evaluate", EVALUATE, arguments)
    return Evaluated(seconds)


def _formats(production: Version, policy: str | None) -> list[str]:
    """Return the formats that the version in Production has, and those that a promotion requires.

    Args:
        production: version in Production.
        policy: policy file of the promotion checks.
    """
    required = read_policy(policy, production.tags.get("dataset", "")).exports or ""
    results = exports_of(production.tags)
    names = {name for name, result in results.items() if result == PASSED}
    return sorted(names | {name.strip() for name in required.split(",") if name.strip()})


def _training(context: WatchContext, record: Retraining, *, is_tuned: bool) -> dict[str, Any]:
    """Return the settings of the training.

    Args:
        record: record with the frozen data.
        is_tuned: a study determines the settings that are searched.
    """
    base, frozen = context.base(record), context.frozen(record)
    values = training_values(base, frozen, _repeated(base, is_tuned=is_tuned))
    return values | dict(context.policy.train) | {"state_dir": context.settings.state_dir}


def _wait_for_earlier(context: WatchContext, key: str) -> bool:
    """Wait for a training of this key whose watcher was killed; False if it still runs."""
    deadline = time.monotonic() + OLD_RUN_S
    while True:
        open_store_and_reap(context.job.state_dir)
        tags = {JOB_FINGERPRINT: key, JOB: "train"}
        runs = find_tagged(context.job.tracking_uri, tags)
        if not any(run.status == "RUNNING" for run in runs):
            return True
        if time.monotonic() > deadline:
            log.warning("A training of this retraining still runs in another process.")
            return False
        context.job.stop.check()
        time.sleep(1.0)


def _run_task(
    context: WatchContext, name: str, call: str, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], float]:
    """Run a step by the executor; return its result and the seconds that it took.

    Raises:
        JobError: the step failed.
    """
    chosen, rules = context.policy.executor, context.policy.rules
    hours = rules.timeout_hours
    task = Task(
        f"{name}-{context.model}",
        call,
        {**arguments, "parent": context.run.run_id},
        count_cpus(chosen, 1),
        chosen.gpus_per_job,
        None if hours is None else hours * 3600,
    )
    executor, began_at = make_executor(chosen, 1), time.monotonic()
    log.info("%s: %s", context.model, name)
    statuses = executor.run([task], context.folder / "steps", lambda _: None, context.job.stop)
    status = statuses[task.name]
    if status.state is not TaskState.DONE:
        raise JobError(f"{name} failed: {status.reason}")
    return dict(status.value), time.monotonic() - began_at


def _repeated(base: TrainedModel, *, is_tuned: bool) -> list[str]:
    """Return the names of the settings of a version's training that the next one takes over."""
    resolved = resolve_model(str(base.config["model"]), str(base.config["variation"]))
    names = [each.name for each in model_settings(resolved) if _is_repeated(each, is_tuned)]
    if base.config.get("minutes") is not None:
        # the pace decides again: there are more images
        names = [name for name in names if name not in PLANNED]
    return names


def _is_repeated(setting: Setting, is_tuned: bool) -> bool:
    is_of_data = setting.panel == DataSettings.PANEL
    return setting.name not in FIXED and (not is_tuned or is_of_data or setting.search is None)
