"""Training session: logging of a run, from its start to the registration of its model."""

from __future__ import annotations

import getpass
import json
import logging
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from eyevsai.config import TrainConfig
from eyevsai.core.cores import busy_cores, count_cores
from eyevsai.core.hashing import hash_file
from eyevsai.core.logging import FILE_ONLY
from eyevsai.core.names import ModelName
from eyevsai.data.dataset import SPLIT_TABLE, Data, Split
from eyevsai.evaluation.metric_names import BEST_EPOCH, CALIBRATION, IMPORTANCE, VALID_BEST
from eyevsai.evaluation.reference import CARD as REFERENCE_CARD
from eyevsai.evaluation.reference import VALID, Reference
from eyevsai.models.learner import FeatureLearner, Learner
from eyevsai.models.serialization import read_config
from eyevsai.registry.classes import VERSION_TAG, class_tags
from eyevsai.registry.versions import REGISTERED_BY, SIZE
from eyevsai.serving.wheel import pack_wheel
from eyevsai.store.run_dir import VERSION_URI
from eyevsai.store.tags import DATASET_DIGEST, FILES_SHA256, REFERENCE_SHA256, WEIGHTS_SHA256
from eyevsai.tracking.environment import describe_environment
from eyevsai.tracking.run import Run
from eyevsai.tracking.search import CLASSES
from eyevsai.training.early_stopping import selection_key
from eyevsai.training.pace import TimeBudget
from eyevsai.workflows.drift_reference import build_reference
from eyevsai.workflows.job_context import log_input
from eyevsai.workflows.train.epoch_log import EpochLog
from eyevsai.workflows.trained_model import CONFIG, describe_origin

log = logging.getLogger("eyevsai")

GRID_SIZE = 24
TOLERATED = 0.5  # cores that other processes may use besides those of the threads
PACKAGE = "package"  # subfolder of the run directory in which the model directory is built


@dataclass
class TrainingSession:
    """Training run in progress: logs settings, epochs and evaluation, and registers the model.

    Call `log_start`, `log_epoch` after each epoch, `evaluate` and `register`, in this order.
    """

    config: TrainConfig
    learner: Learner
    data: Data
    name: ModelName
    run: Run
    budget: TimeBudget | None = None
    history: list[dict[str, float]] = field(default_factory=list)  # metrics of each epoch
    # epochs that a resumed run logged before it was interrupted
    logged_epochs: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._reference: Reference | None = None  # set by `evaluate`
        self.epoch_log = EpochLog(getattr(self.config.model.settings, "epochs", 1), self.budget)
        self._wheel = pack_wheel()  # now, because the code may be edited while it trains

    def log_start(self) -> None:
        """Log settings, environment and dataset. Call before the first training step."""
        compute, dataset = self.learner.compute(), self.data.dataset
        environment = describe_environment() | compute
        self.run.log_params(self.config.parameters(self.name.dataset))
        self.run.log_dict(CONFIG, self.config.flat())
        self.run.log_dict("environment.json", environment)
        if commit := environment["git"].get("commit"):
            self.run.set_tags({"mlflow.source.git.commit": commit})
        parameters = self.learner.num_parameters()
        # a shallow model has no parameters before it is fitted
        counts = {"parameters": parameters} if parameters else {}
        self.run.set_tags({**compute, DATASET_DIGEST: dataset.fingerprint, **counts})
        self._log_dataset()
        size = f"{parameters:,} parameters; " if parameters else ""
        log.info(
            "%s/%s: %s%s",
            self.learner.family,
            self.learner.variation,
            size,
            ", ".join(f"{key} {value}" for key, value in compute.items()),
        )
        if compute.get("device", "cpu") == "cpu":
            _warn_if_busy(int(compute["threads"]))

    def _log_dataset(self) -> None:
        dataset = self.data.dataset
        log_input(self.run, dataset)
        self.run.log_dict(CLASSES, list(dataset.classes))
        self.run.log_dict("data_report.json", dataset.curated.report())
        self.run.log_text(SPLIT_TABLE, dataset.split_table())

    def log_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Append an epoch's metrics to `history`, and log them unless they are in `logged_epochs`.

        Serves as the `on_epoch` callback of `Learner.fit`.
        """
        self.history.append(metrics)
        if epoch in self.logged_epochs:
            self.epoch_log.show(self.history)
            return
        self.run.log_metrics(metrics, step=epoch)
        self.epoch_log.log(self.history)

    def evaluate(self) -> dict[str, float]:
        """Return the metrics of the best weights on the valid split, before calibration.

        Sets the learner's temperature. Logs the metrics as `best_valid_...`, the calibration
        metrics and plots; for a `FeatureLearner`, feature importances, too.
        """
        from eyevsai.evaluation.calibration import (
            apply_temperature,
            calibration_error,
            fit_temperature,
        )
        from eyevsai.evaluation.metrics import basic_metrics, confusion_matrix
        from eyevsai.explanation.top_losses import top_losses
        from eyevsai.reports.plots import plot_confusion_matrix, plot_curves, plot_top_losses
        from eyevsai.reports.result_lines import format_training

        valid, classes = self.data.valid, self.learner.classes
        labels = valid.labels.numpy()
        probabilities = self.learner.predict_proba(valid.arrays())
        scores = basic_metrics(probabilities, labels)
        self.learner.temperature = fit_temperature(probabilities, labels)
        calibrated = apply_temperature(probabilities, self.learner.temperature)
        self.run.log_metrics(
            {
                f"{CALIBRATION}temperature": self.learner.temperature,
                f"{CALIBRATION}loss": basic_metrics(calibrated, labels)["loss"],
                f"{CALIBRATION}uncalibrated_ece": calibration_error(probabilities, labels),
                f"{CALIBRATION}ece": calibration_error(calibrated, labels),
            }
        )
        keys = [selection_key(metrics) for metrics in self.history]
        best_epoch, parameters = keys.index(max(keys)) + 1, self.learner.num_parameters()
        self.run.set_tags({"parameters": parameters})
        self.run.log_metrics(
            {f"{VALID_BEST}{name}": value for name, value in scores.items()}
            | {BEST_EPOCH: best_epoch}
        )
        line = format_training(scores["accuracy"], best_epoch, len(self.history), parameters)
        self.run.log_result(line)
        self._reference = build_reference(
            self.learner,
            self.data.dataset,
            valid,
            calibrated,
            name=VALID,
            seed=self.config.run.seed,
        )
        mistakes = top_losses(probabilities, labels, GRID_SIZE)
        images = valid.arrays([mistake.index for mistake in mistakes])
        self.run.log_figure("plots/curves.png", plot_curves(self.history, best_epoch))
        self.run.log_figure(
            "plots/confusion_matrix.png",
            plot_confusion_matrix(confusion_matrix(probabilities, labels), classes),
        )
        self.run.log_figure("plots/top_losses.png", plot_top_losses(mistakes, images, classes))
        if isinstance(self.learner, FeatureLearner):
            self._log_importance(self.learner, valid)
        return scores

    def _log_importance(self, learner: FeatureLearner, valid: Split) -> None:
        """Log the permutation importance of each feature group on the valid split."""
        from eyevsai.explanation.permutation_importance import permutation_importance
        from eyevsai.reports.plots import plot_importance

        importance = permutation_importance(
            learner, learner.features(valid.arrays()), valid.labels.numpy(), self.config.run.seed
        )
        self.run.log_metrics({f"{IMPORTANCE}{name}": value for name, value in importance.items()})
        self.run.log_figure("plots/importance.png", plot_importance(importance, "valid"))

    def register(self, scores: dict[str, float], *, checks_classes: bool = True) -> str | None:
        """Log the model, register it as a version and return the version's URI.

        Return None while the tracking server is unreachable: the registration is then pending.

        Args:
            scores: metrics on the valid split, for the model card and the version's tags.
            checks_classes: require the classes of the registered model. If False, the version may
                have others, and the class list of the registered model stays.
        """
        from eyevsai.reports.model_card import CARD, TrainingFacts, describe_model, render_card
        from eyevsai.serving.model_dir import (
            MODEL_FOLDER,
            REFERENCE_FOLDER,
            hash_model_dir,
            model_size,
            write_model_dir,
        )

        summary: dict[str, Any] = {
            "run_id": self.run.run_id,
            "accuracy": f"{scores['accuracy']:.4f}",
            "parameters": self.learner.num_parameters(),
            "image_size": self.learner.preprocessing.image_size,
        }
        settings = self.config.parameters(self.name.dataset)
        facts = TrainingFacts(
            self.run.run_id,
            self.data.dataset,
            settings,
            scores,
            date=datetime.now().astimezone(),
        )
        self.run.log_text(CARD, render_card(describe_model(self.learner), facts))
        # an interrupted call may have left a partial model directory
        shutil.rmtree(self.run.folder.path / PACKAGE, ignore_errors=True)
        digest = {DATASET_DIGEST: self.data.dataset.fingerprint}
        metadata = summary | digest | describe_origin(self.config.flat(), self.data.dataset)
        model_dir = write_model_dir(
            self.learner,
            self.data.valid,
            self.run.folder.path / PACKAGE,
            metadata,
            self._wheel,
            reference=self._reference,
        )
        self.run.log_model(model_dir, "model", settings)
        weights = read_config(model_dir / MODEL_FOLDER)["sha256"]
        classes = list(self.data.dataset.classes)
        tags = summary | {SIZE: model_size(model_dir), REGISTERED_BY: getpass.getuser()}
        tags |= class_tags(classes, longest=VERSION_TAG)
        # tags for people come first: MLflow's UI lists tags in insertion order
        tags |= digest | {WEIGHTS_SHA256: weights}
        tags |= {FILES_SHA256: json.dumps(hash_model_dir(model_dir))}
        if self._reference is not None:
            tags |= {REFERENCE_SHA256: hash_file(model_dir / REFERENCE_FOLDER / REFERENCE_CARD)}
        self.run.enqueue(
            "version",
            name=vars(self.name),
            tags={name: str(value) for name, value in tags.items()},
            classes=classes if checks_classes else None,
            class_change=self.config.data.class_change,
        )
        model_uri: str | None = self.run.folder.read(VERSION_URI) if self.run.flush() else None
        if model_uri:
            # commands print it
            log.info(
                "Registered %s with valid accuracy %.4f",
                model_uri,
                scores["accuracy"],
                extra=FILE_ONLY,
            )
        return model_uri


def _warn_if_busy(threads: int) -> None:
    """Log a warning if other processes use cores that the threads need.

    Threads wait for each other after each operation, hence all of them are as slow as one that
    shares its core. The number is not reduced automatically, because results depend on it.
    """
    total, used = count_cores(), busy_cores() if threads > 1 else None
    if used is not None and used + threads > total + TOLERATED:
        log.warning(
            "Other processes use %.1f of %d CPU cores. A thread that shares its core delays all "
            "others: with --threads %d, training is faster while those processes run.",
            used,
            total,
            max(1, min(threads, round(total - used))),
        )
