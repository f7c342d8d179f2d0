"""train: from images to a registered version that predicts."""

from __future__ import annotations

import getpass
import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from eyevsai.config import TrainConfig
from eyevsai.core.names import ModelName
from eyevsai.data.dataset import SPLIT_TABLE, Data, Split, load_dataset
from eyevsai.data.parallel import IMPORTING
from eyevsai.jobs.classes import check_classes
from eyevsai.jobs.epochs import EpochLog
from eyevsai.jobs.learning import prepare_learner
from eyevsai.jobs.meeting import meeting
from eyevsai.jobs.opening import log_input, open_swept_store, start_job
from eyevsai.jobs.place import Place, take_size
from eyevsai.jobs.resume import check_basis, find_interrupted, restore_config, write_basis
from eyevsai.jobs.signals import JobStop, ending_with_mlflow_run, ending_with_parent, stopping
from eyevsai.jobs.subject import CONFIG, describe_origin
from eyevsai.jobs.tuned import describe_tuned, use_tuned
from eyevsai.models.learner import FeatureLearner, Learner
from eyevsai.models.serialization import read_config
from eyevsai.store.run_dir import VERSION_URI
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.early_stopping import selection_key

if TYPE_CHECKING:
    from eyevsai.tracking.run import Run

log = logging.getLogger("eyevsai")

SHEET_SIZE = 24
PACKAGE = "package"  # the run folder's part in which the model is made ready


@dataclass(frozen=True)
class Trained:
    """What a training run left behind."""

    run_id: str
    model_uri: str | None
    scores: dict[str, float]
    seconds: float


def train(
    config: TrainConfig,
    run_id: str | None = None,
    place: Place | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> Trained:
    """Trains one model, logs the run and registers a version.

    `run_id` is the run that `mlflow run` made for this call, if one did; `place` is this process's
    among those that torchrun started, if it did; the run gets `tags` besides its own. What is wrong
    with the data, the settings or the store is found before a run is made.

    Raises:
        UserError: something a person must mend, or (JobError) a loss that became NaN.
    """
    began = time.monotonic()
    with ExitStack() as stack:
        stop = stack.enter_context(stopping())
        if run_id:
            stack.enter_context(ending_with_mlflow_run())
        if place:
            stack.enter_context(ending_with_parent())
        # mlflow takes seconds to import, while the images are read from disk
        importing = threading.Thread(
            target=import_module,
            args=("eyevsai.tracking.run_lifecycle",),
            name=IMPORTING,
            daemon=True,
        )
        importing.start()
        config, tracking_uri, resumed = take_size(config, place), None, None
        if config.resume.resume:
            # two threads that import one package at once can each find it half made
            importing.join()
            tracking_uri = open_swept_store(_state_root(config))  # a run to go on with may be done
            resumed = find_interrupted(config, tracking_uri)
        if resumed:
            config = restore_config(config, resumed)
        met = stack.enter_context(meeting(config, place))
        dataset = load_dataset(config.data)
        importing.join()
        tracking_uri = tracking_uri or open_swept_store(_state_root(config))
        name, study = ModelName(dataset.name, config.model.family, config.model.variation), None
        check_classes(tracking_uri, name, dataset.classes, consented=config.data.class_change)
        if not resumed:
            config, study = use_tuned(config, name, tracking_uri, dataset.classes)
        learner, data = prepare_learner(config, dataset)
        if resumed:
            check_basis(dataset, learner.preprocessing, resumed, anyway=config.resume.resume_anyway)
        if met:
            met.join(config, dataset, learner)
        with _start(
            config,
            name,
            tracking_uri,
            stop,
            Origin(run_id, resumed.run_id if resumed else None, tags),
        ) as run:
            return _work(
                Session(config, learner, data, name, run),
                stop,
                began,
                study=study,
                resumed=bool(resumed),
            )


def _work(
    session: Session, stop: JobStop, began: float, *, study: str | None, resumed: bool
) -> Trained:
    """All that is done inside the run."""
    config, run, data, learner = session.config, session.run, session.data, session.learner
    if resumed:
        session.logged = run.logged_epochs()
    else:
        session.log_start()
        if study:
            run.set_tags({"tuned_from": study, "tuned_settings": describe_tuned(config)})
        write_basis(config, data.dataset, learner.preprocessing, run.folder)
    checkpoints = Checkpoints(run.folder.checkpoints, config.run.checkpoint_every_s, stop)
    learner.fit(data.train, data.valid, session.log_epoch, checkpoints)
    scores = session.evaluate()
    model_uri = session.register(scores)
    return Trained(run.run_id, model_uri, scores, time.monotonic() - began)


@dataclass(frozen=True)
class Origin:
    """Where a run comes from: made by `mlflow run` for this call, an earlier one to go on with, or
    neither; and what the caller says of it.
    """

    given: str | None
    resumed: str | None
    tags: Mapping[str, str]


@contextmanager
def _start(
    config: TrainConfig, name: ModelName, tracking_uri: str, stop: JobStop, origin: Origin
) -> Iterator[Run]:
    """The run of this job, which ends as the block ends."""
    from eyevsai.registry.registration import check_name

    check_name(tracking_uri, name)
    title, tags = config.run.run_name or str(name), {"job": "train", **vars(name), **origin.tags}
    state_root = _state_root(config)
    with start_job(
        stop, tracking_uri, title, tags, state_root, given=origin.given, resumed=origin.resumed
    ) as run:
        yield run


def _state_root(config: TrainConfig) -> Path:
    return Path(config.run.state_root).expanduser()


@dataclass
class Session:
    """One training run while it lasts: what is logged, in the order in which it comes to be."""

    config: TrainConfig
    learner: Learner
    data: Data
    name: ModelName
    run: Run
    rows: list[dict[str, float]] = field(default_factory=list)
    logged: set[int] = field(default_factory=set)  # epochs whose rows a resumed run has already

    def __post_init__(self) -> None:
        self.epoch_log = EpochLog(getattr(self.config.model.settings, "epochs", 1))

    def log_start(self) -> None:
        """Settings, environment and data, before the first step."""
        from eyevsai.tracking.environment import describe_environment

        compute, dataset = self.learner.compute(), self.data.dataset
        environment = describe_environment() | compute
        self.run.log_params(self.config.flat())
        self.run.log_dict(CONFIG, self.config.flat())
        self.run.log_dict("environment.json", environment)
        if commit := environment["git"].get("commit"):
            self.run.set_tags({"mlflow.source.git.commit": commit})
        parameters = self.learner.num_parameters()
        # not before a shallow one is fitted
        known = {"parameters": parameters} if parameters else {}
        self.run.set_tags({**compute, "fingerprint": dataset.fingerprint, **known})
        self._log_dataset()
        size = f"{parameters:,} parameters; " if parameters else ""
        log.info(
            "%s/%s: %s%s",
            self.learner.family,
            self.learner.variation,
            size,
            ", ".join(f"{key} {value}" for key, value in compute.items()),
        )

    def _log_dataset(self) -> None:
        from eyevsai.tracking.search import CLASSES

        dataset = self.data.dataset
        log_input(self.run, dataset)
        self.run.log_dict(CLASSES, list(dataset.classes))
        self.run.log_dict("data_report.json", dataset.curated.report())
        self.run.log_text(SPLIT_TABLE, dataset.split_table())

    def log_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Logs and keeps one epoch's row: the door through which a learner reports."""
        self.rows.append(row)
        if epoch in self.logged:
            return
        self.run.log_metrics(row, step=epoch)
        self.epoch_log.tell(self.rows)

    def evaluate(self) -> dict[str, float]:
        """Scores of the best weights on valid, with pictures; `best/...` is what a run table sorts
        by.
        """
        from eyevsai.evaluation.calibration import (
            apply_temperature,
            calibration_error,
            fit_temperature,
        )
        from eyevsai.evaluation.metrics import basic_metrics, confusion_matrix
        from eyevsai.explanation.top_losses import top_losses
        from eyevsai.reports.plots import plot_confusion_matrix, plot_curves, plot_top_losses

        valid, classes = self.data.valid, self.learner.classes
        labels = valid.labels.numpy()
        probabilities = self.learner.predict_proba(valid.arrays())
        scores = basic_metrics(probabilities, labels)
        self.learner.temperature = fit_temperature(probabilities, labels)
        calibrated = apply_temperature(probabilities, self.learner.temperature)
        self.run.log_metrics(
            {
                "calibration/temperature": self.learner.temperature,
                "calibration/loss": basic_metrics(calibrated, labels)["loss"],
                "calibration/uncalibrated_ece": calibration_error(probabilities, labels),
                "calibration/ece": calibration_error(calibrated, labels),
            }
        )
        ranks = [selection_key(row) for row in self.rows]
        best_epoch = ranks.index(max(ranks)) + 1
        self.run.set_tags({"parameters": self.learner.num_parameters()})
        self.run.log_metrics(
            {f"best/{name}": value for name, value in scores.items()} | {"best/epoch": best_epoch}
        )
        mistakes = top_losses(probabilities, labels, SHEET_SIZE)
        images = valid.arrays([mistake.index for mistake in mistakes])
        self.run.log_figure("pictures/curves.png", plot_curves(self.rows, best_epoch))
        self.run.log_figure(
            "pictures/confusion_matrix.png",
            plot_confusion_matrix(confusion_matrix(probabilities, labels), classes),
        )
        self.run.log_figure("pictures/worst_errors.png", plot_top_losses(mistakes, images, classes))
        if isinstance(self.learner, FeatureLearner):
            self._explain(self.learner, valid)
        return scores

    def _explain(self, learner: FeatureLearner, valid: Split) -> None:
        """Which features the model leans on."""
        from eyevsai.explanation.permutation_importance import permutation_importance
        from eyevsai.reports.plots import plot_importance

        found = permutation_importance(
            learner, learner.features(valid.arrays()), valid.labels.numpy(), self.config.run.seed
        )
        self.run.log_metrics({f"importance/{name}": value for name, value in found.items()})
        self.run.log_figure("pictures/importance.png", plot_importance(found, "valid"))

    def register(self, scores: dict[str, float], *, checks_classes: bool = True) -> str | None:
        """Logs the model, registers it as a version and returns its URI; None when the store does
        not answer.

        Without `checks_classes` the version may have other classes than the registered model, which
        keeps its list.
        """
        from eyevsai.registry.artifacts import size_of
        from eyevsai.registry.classes import VERSION_TAG, class_tags
        from eyevsai.registry.versions import FILES_SHA256, REGISTERED_BY, SIZE, WEIGHTS_SHA256
        from eyevsai.reports.model_card import describe_model, describe_training, render_card
        from eyevsai.serving.model_dir import MODEL_FOLDER, hash_model_dir, write_model_dir

        about: dict[str, Any] = {
            "run_id": self.run.run_id,
            "fingerprint": self.data.dataset.fingerprint,
            "accuracy": f"{scores['accuracy']:.4f}",
            "parameters": self.learner.num_parameters(),
            "image_size": self.learner.preprocessing.image_size,
        }
        described = render_card(
            describe_model(self.learner), describe_training(self.data.dataset, scores)
        )
        self.run.log_text("model_card.md", described)
        # of a start that was interrupted here
        shutil.rmtree(self.run.folder.path / PACKAGE, ignore_errors=True)
        metadata = about | describe_origin(self.config.flat(), self.data.dataset)
        package = write_model_dir(
            self.learner, self.data.valid, self.run.folder.path / PACKAGE, metadata
        )
        self.run.log_model(package, "model", self.config.flat())
        weights = read_config(package / MODEL_FOLDER)["sha256"]
        digests = {WEIGHTS_SHA256: weights, FILES_SHA256: json.dumps(hash_model_dir(package))}
        classes = list(self.data.dataset.classes)
        tags = about | {SIZE: size_of(package), REGISTERED_BY: getpass.getuser()} | digests
        tags |= class_tags(classes, longest=VERSION_TAG)
        self.run.enqueue(
            "version",
            name=vars(self.name),
            tags={name: str(value) for name, value in tags.items()},
            classes=classes if checks_classes else None,
            class_change=self.config.data.class_change,
        )
        model_uri: str | None = self.run.folder.read(VERSION_URI) if self.run.flush() else None
        if model_uri:
            log.info("Registered %s with valid accuracy %.4f", model_uri, scores["accuracy"])
        return model_uri
