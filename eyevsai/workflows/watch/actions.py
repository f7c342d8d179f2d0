"""Actions of a watcher: each returns an event, and can be repeated after a kill."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eyevsai.config import PLANNED, model_settings
from eyevsai.core.errors import JobError, UserError
from eyevsai.core.model_ref import parse_version_uri
from eyevsai.core.names import ModelName, to_file_name
from eyevsai.core.settings import Setting
from eyevsai.data.settings import DataSettings
from eyevsai.executors.base import State as TaskState
from eyevsai.executors.base import Task
from eyevsai.executors.factory import count_cpus, make_executor
from eyevsai.formats.factory import PASSED
from eyevsai.inference_log.images import find_folder
from eyevsai.inference_log.labels import LabelReader
from eyevsai.inference_log.store import LogStore
from eyevsai.models.factory import resolve_model
from eyevsai.registry.entities import Client, read_model
from eyevsai.registry.lookup import find_version
from eyevsai.registry.retraining_runs import CANDIDATE, RetrainingRun, set_candidate
from eyevsai.registry.stages import stage_holder
from eyevsai.registry.versions import exports_of
from eyevsai.retraining.record import (
    Ended,
    Evaluated,
    Event,
    Frozen,
    Passed,
    Refused,
    Requested,
    Retraining,
    RolloutStarted,
    Trained,
    Tuned,
)
from eyevsai.retraining.settings import policy_digest, retraining_key
from eyevsai.rollout.state import RolloutState
from eyevsai.store.tags import JOB, JOB_FINGERPRINT
from eyevsai.tracking.search import find_tagged
from eyevsai.workflows.job_context import JobContext, open_store_and_reap
from eyevsai.workflows.registry.promote import NotPromotedError
from eyevsai.workflows.sweep.job import CALL as TRAIN
from eyevsai.workflows.trained_model import TrainedModel, find_trained_model
from eyevsai.workflows.watch.freeze import dataset_of, freeze_data, training_values
from eyevsai.workflows.watch.frozen_data import FrozenData, open_frozen
from eyevsai.workflows.watch.gate import GateRules, check_candidate
from eyevsai.workflows.watch.labelled import LabelledImages, read_labelled
from eyevsai.workflows.watch.requests import request_labels
from eyevsai.workflows.watch.rollouts import find_rollout, read_outcome, start_rollout
from eyevsai.workflows.watch.settings import FIXED, WatchPolicy, WatchSettings
from eyevsai.workflows.watch.tasks import EVALUATE, TUNE

log = logging.getLogger("eyevsai")

OLD_RUN_S = 30.0  # a training of a watcher that was killed has this long to end


@dataclass(frozen=True)
class Actions:
    """Actions on one model, with what they need.

    Attributes:
        job: context of the workflow.
        client: client of the store.
        store: inference log.
        settings: settings of the call.
        policy: policy of the retraining.
        run: run with the state.
        model: name of the registered model.
        production: version in Production.
    """

    job: JobContext
    client: Client
    store: LogStore
    settings: WatchSettings
    policy: WatchPolicy
    run: RetrainingRun
    model: str
    production: int

    @property
    def folder(self) -> Path:
        """Folder of the model's frozen data and labelling requests."""
        return self.settings.folder / to_file_name(self.model)

    def uri(self, version: int | None) -> str:
        """Return the URI of a version."""
        return f"models:/{self.model}/{version}"

    def base(self, record: Retraining) -> TrainedModel:
        """Return the version whose training is repeated: that in Production at the start.

        Raises:
            UserError: its training would register versions under another name.
        """
        number = record.production or self.production
        base = find_trained_model(self.job.tracking_uri, self.uri(number))
        family, variation = str(base.config["model"]), str(base.config["variation"])
        registered = ModelName(dataset_of(base), family, variation).registered
        if registered != self.model:
            raise UserError(
                f"{self.model} cannot be retrained, because its versions come from {registered}. "
                f"Watch that one: eyevsai watch {registered}"
            )
        return base

    def labelled(self, classes: tuple[str, ...]) -> LabelledImages:
        """Return the labelled images of the model."""
        images = find_folder(self.store, self.settings.images_dir)
        return read_labelled(LabelReader(self.store), images, self.model, classes)

    def request_labels(self, record: Retraining) -> Event:
        """Select answers to label, and write them for labelling tools."""
        folder = self.folder / f"request-{record.sequence:06d}"
        request = request_labels(
            self.store, self.model, self.policy.rules.suggest, folder, self.settings
        )
        self.run.log_json(f"{folder.name}.json", request.to_json())
        log.warning(
            "Labels are needed: %d answers to label are in %s. Then: eyevsai feedback add %s FILE",
            request.count,
            folder,
            self.model,
        )
        return Requested(request.count)

    def freeze(self, record: Retraining, classes: tuple[str, ...]) -> Event:
        """Freeze the data of the version in Production with the labelled images."""
        base, rules = self.base(record), self.policy.rules
        labelled = self.labelled(classes)
        shares = rules.recent_fraction, float(base.config.get("valid_fraction", 0.15))
        frozen = freeze_data(base, labelled.images, shares, self.folder)
        counts = dict(frozen.counts) | labelled.unused
        self.run.log_json(f"data/{frozen.folder.name}.json", {"counts": counts})
        used = sum(frozen.counts.get(name, 0) for name in ("train", "valid"))
        key = retraining_key(self.model, frozen.digest, policy_digest(rules, self.policy.train))
        return Frozen(frozen.digest, key if used else "", labelled.newest)

    def tune(self, record: Retraining) -> Event:
        """Tune the model on the frozen data."""
        trials = self._training(record, is_tuned=True) | {
            "n_trials": self.policy.rules.trials,
            "study": f"{self.model}-{record.key[:8]}",
        }
        result, seconds = self._run_task("tune", TUNE, {"trials": trials})
        return Tuned(str(result["study"]), seconds)

    def train(self, record: Retraining) -> Event | None:
        """Train on the frozen data, or resume it; None while an earlier process still trains."""
        if not self._wait_for_earlier(record.key):
            return None
        is_tuned = bool(record.study)
        values = self._training(record, is_tuned=is_tuned)
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
        result, seconds = self._run_task("train", TRAIN, arguments)
        source = parse_version_uri(str(result["model_uri"]))
        if source is None or source[0] != self.model:
            raise JobError(f"The training registered {result['model_uri']}, not {self.model}.")
        return Trained(source[1], seconds)

    def evaluate(self, record: Retraining) -> Event:
        """Evaluate the new version and the one in Production on both test splits."""
        frozen = self._frozen(record)
        production = find_version(self.job.tracking_uri, self.uri(self.production))
        results = exports_of(production.tags)
        passed = [name for name, result in results.items() if result == PASSED]
        recent = frozen.recent
        arguments = {
            "versions": [self.uri(record.version), self.uri(self.production)],
            "recent": None if recent is None else str(recent),
            "class_map": str(frozen.recent_map),
            "formats": ",".join(passed),
            "state_dir": self.settings.state_dir,
        }
        _, seconds = self._run_task("evaluate", EVALUATE, arguments)
        return Evaluated(seconds)

    def check(self, record: Retraining) -> Event | None:
        """Check the new version; if it passes, it gets the alias `candidate`.

        Returns None during a rollout of another version, which has that alias.
        """
        if self._waits_for_other(record, find_rollout(self.settings, self.model)):
            return None
        version, production = (
            find_version(self.job.tracking_uri, self.uri(number))
            for number in (record.version, self.production)
        )
        rules = self.policy.rules
        result = check_candidate(
            self.job.tracking_uri,
            version,
            None if version.number == production.number else production,
            self._frozen(record),
            GateRules(rules.promotion_policy, rules.recent_tolerance),
        )
        self.run.log_json(f"checks/{record.version}.json", vars(result))
        self.run.log_metrics(result.metrics)
        if result.failed:
            return Refused(result.failed)
        set_candidate(self.client, self.model, int(version.number))
        return Passed()

    def start_rollout(self, record: Retraining) -> Event | None:
        """Start the gradual rollout of the candidate; None during that of another version."""
        version, current = self._version(record), find_rollout(self.settings, self.model)
        if self._waits_for_other(record, current):
            return None
        # one that a watcher started before it was killed can have ended: it is not repeated
        if current and current.candidate == version and current.started_at >= record.since:
            return RolloutStarted()
        try:
            start_rollout(self.settings, self.policy.rules, self.model, version)
        except NotPromotedError as error:  # the policy or the version in Production changed
            return Ended(f"refused by the rollout: {error}")
        return RolloutStarted()

    def follow_rollout(self, record: Retraining) -> Event | None:
        """Return the outcome of the rollout; None before its end."""
        outcome = read_outcome(self.settings, self.model, self._version(record))
        return None if outcome is None else Ended(outcome)

    def follow_person(self, record: Retraining) -> Event | None:
        """Return what a person has decided about the candidate; None while it waits."""
        model = read_model(self.client, self.model)
        if stage_holder(model, "production").version == record.version:
            return Ended("promoted by a person")
        if record.version not in {each.number for each in model.versions}:
            return Ended("deleted by a person")
        if model.aliases.get(CANDIDATE) != record.version:
            return Ended("rejected by a person, who removed the alias candidate")
        return None

    def _version(self, record: Retraining) -> int:
        if record.version is None:
            raise JobError("The state of the retraining has no version: it was changed by hand.")
        return record.version

    def _waits_for_other(self, record: Retraining, rollout: RolloutState | None) -> bool:
        """Return True during a rollout of another version than the new one."""
        if rollout is None or rollout.is_over or rollout.candidate == record.version:
            return False
        text = f"version {record.version} waits for the rollout of version {rollout.candidate}"
        log.warning("%s: %s", self.model, text)
        return True

    def _frozen(self, record: Retraining) -> FrozenData:
        return open_frozen(self.folder, record.data)

    def _training(self, record: Retraining, *, is_tuned: bool) -> dict[str, Any]:
        """Return the settings of the training.

        Args:
            record: record with the frozen data.
            is_tuned: a study determines the settings that are searched.
        """
        base, frozen = self.base(record), self._frozen(record)
        values = training_values(base, frozen, _repeated(base, is_tuned=is_tuned))
        return values | dict(self.policy.train) | {"state_dir": self.settings.state_dir}

    def _wait_for_earlier(self, key: str) -> bool:
        """Wait for a training of this key whose watcher was killed; False if it still runs."""
        deadline = time.monotonic() + OLD_RUN_S
        while True:
            open_store_and_reap(self.job.state_dir)
            tags = {JOB_FINGERPRINT: key, JOB: "train"}
            runs = find_tagged(self.job.tracking_uri, tags)
            if not any(run.status == "RUNNING" for run in runs):
                return True
            if time.monotonic() > deadline:
                log.warning("A training of this retraining still runs in another process.")
                return False
            self.job.stop.check()
            time.sleep(1.0)

    def _run_task(
        self, name: str, call: str, arguments: Mapping[str, Any]
    ) -> tuple[dict[str, Any], float]:
        """Run a step by the executor; return its result and the seconds that it took.

        Raises:
            JobError: the step failed.
        """
        chosen, rules = self.policy.executor, self.policy.rules
        hours = rules.timeout_hours
        task = Task(
            f"{name}-{self.model}",
            call,
            {**arguments, "parent": self.run.run_id},
            count_cpus(chosen, 1),
            chosen.gpus_per_job,
            None if hours is None else hours * 3600,
        )
        executor, began_at = make_executor(chosen, 1), time.monotonic()
        log.info("%s: %s", self.model, name)
        statuses = executor.run([task], self.folder / "steps", lambda _: None, self.job.stop)
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
