"""Logging of an evaluation result: metrics, tables, plots and an HTML page."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from eyevsai.data.dataset import Dataset, Split
from eyevsai.data.seeding import derive_seed
from eyevsai.evaluation.metric_names import TEST
from eyevsai.evaluation.results import EvaluationResult
from eyevsai.explanation.top_losses import top_losses
from eyevsai.models.learner import FeatureLearner, Learner, SpatialLearner
from eyevsai.store.tags import EVALUATION_DIGEST, EVALUATION_WEIGHTS
from eyevsai.tracking.run import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure


GRID_SIZE, CAM_SIZE = 24, 12  # images in the grids of top losses and of activation maps
# tag of an evaluation: True if its images are the model's own test split
OWN_SPLIT = "own_test_split"
PREDICTIONS = "tables/test_predictions.json"
PREDICTION_COLUMNS = ("image", "sha256", "class", "predicted", "probability")


@dataclass(frozen=True)
class EvaluationLogger:
    """Evaluation result, with the data and the model that it belongs to, to be logged."""

    result: EvaluationResult
    dataset: Dataset
    split: Split
    learner: Learner
    title: str
    weights: str  # SHA-256 of the weights, which assigns the evaluation to a version
    is_own_split: bool  # True if `split` is the model's own test split

    @cached_property
    def metrics(self) -> dict[str, float]:
        """All metrics by name, with those of feature importance."""
        return self.result.metrics() | {
            f"importance_{name}": value for name, value in (self.importance or {}).items()
        }

    @cached_property
    def importance(self) -> dict[str, float] | None:
        """Drop in accuracy when each feature group is shuffled; None for models without groups."""
        if not isinstance(self.learner, FeatureLearner):
            return None
        from eyevsai.explanation.permutation_importance import permutation_importance

        features = self.learner.features(self.split.arrays())
        return permutation_importance(self.learner, features, self.result.labels, self.result.seed)

    def log_to(self, run: Run) -> None:
        """Log the metrics, tags, tables, plots and page on a run, as those of the test split."""
        from eyevsai.reports.evaluation_page import render_evaluation_page
        from eyevsai.reports.page import PageOrigin

        result, classes = self.result, self.result.classes
        plots = self.plots()
        origin = PageOrigin(datetime.now().astimezone(), run.run_id, run.url)
        page = render_evaluation_page(
            self.title, self.dataset.name, result, self.metrics, plots, origin=origin
        )
        run.log_metrics({f"{TEST}{name}": value for name, value in self.metrics.items()})
        data_tags = {"test_dataset": self.dataset.name, EVALUATION_DIGEST: self.fingerprint}
        run.set_tags(data_tags | {EVALUATION_WEIGHTS: self.weights, OWN_SPLIT: self.is_own_split})
        by_class = [
            [name, *row.values()]
            for name, row in zip(classes, result.metrics_by_class(), strict=True)
        ]
        run.log_table(
            "tables/test_classes.json", ("class", "precision", "recall", "f1", "support"), by_class
        )
        run.log_table(
            "tables/test_confusions.json", ("class", "predicted", "images"), result.most_confused()
        )
        run.log_table(PREDICTIONS, PREDICTION_COLUMNS, self.predictions())
        for name, figure in plots.items():
            run.log_figure(f"plots/test_{name}.png", figure)
        run.log_text("test_report.html", page)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the images and their classes, equal for evaluations that can be compared."""
        labelled_rows = zip(self.split.rows, self.result.labels, strict=True)
        lines = sorted(
            f"{self.dataset.samples[row].record.digest} {self.result.classes[label]}"
            for row, label in labelled_rows
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def predictions(self) -> list[list[object]]:
        """Return a row for each image, with the columns `PREDICTION_COLUMNS`."""
        result = self.result
        samples = [self.dataset.samples[row] for row in self.split.rows]
        columns = zip(
            samples, result.labels, result.predicted, result.probabilities.max(axis=1), strict=True
        )
        return [
            [
                sample.name,
                sample.record.digest,
                result.classes[label],
                result.classes[predicted],
                float(probability),
            ]
            for sample, label, predicted, probability in columns
        ]

    def plots(self) -> dict[str, Figure]:
        """Return all plots by name; some depend on the model and on the evaluation settings."""
        from eyevsai.reports import evaluation_plots as draw
        from eyevsai.reports.plots import plot_confusion_matrix, plot_importance, plot_top_losses

        result, classes = self.result, self.result.classes
        mistakes = top_losses(result.probabilities, result.labels, GRID_SIZE)
        images = self.split.arrays([mistake.index for mistake in mistakes])
        plots = {
            "confusion_matrix": plot_confusion_matrix(result.confusion_matrix(), classes),
            "classes": draw.plot_classes(result.metrics_by_class(), classes),
            "reliability": draw.plot_reliability(
                result.bins(calibrated=False), result.bins(calibrated=True)
            ),
            "coverage": draw.plot_coverage(result),
            "top_losses": plot_top_losses(mistakes, images, classes),
        }
        if result.corrupted:
            plots["corruptions"] = draw.plot_corruptions(result.corrupted)
        if isinstance(self.learner, SpatialLearner):
            plots["grad_cam"] = self._plot_cams(self.learner)
        if self.importance is not None:
            plots["importance"] = plot_importance(self.importance, "test")
        return plots

    def _plot_cams(self, learner: SpatialLearner) -> Figure:
        """Plot activation maps of the most confident wrong predictions and of random images.

        At most half of the `CAM_SIZE` images are wrong predictions. The others are drawn by seed.
        """
        import numpy as np

        from eyevsai.explanation.grad_cam import grad_cam
        from eyevsai.reports.evaluation_plots import plot_cams

        result = self.result
        wrong = [
            mistake.index
            for mistake in top_losses(result.probabilities, result.labels, CAM_SIZE // 2)
        ]
        others = np.setdiff1d(np.arange(len(self.split)), wrong)
        drawn = np.random.default_rng(derive_seed(result.seed, "grad_cam")).permutation(others)
        indices = [*wrong, *map(int, drawn[: CAM_SIZE - len(wrong)])]
        images, predicted = self.split.arrays(indices), result.predicted[indices]
        crops = [
            learner.preprocessing.crop(image[None])[0].numpy()
            for image in self.split.images(indices)
        ]
        names = [
            (result.classes[each], result.classes[label])
            for each, label in zip(predicted, result.labels[indices], strict=True)
        ]
        return plot_cams(crops, grad_cam(learner, images, list(map(int, predicted))), names)
