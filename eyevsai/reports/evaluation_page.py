"""Evaluation of a model as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from eyevsai.evaluation.results import EvaluationResult
from eyevsai.reports.inline_images import encode_figure

CAPTIONS = {
    "confusion_matrix": "Confusion matrix: true classes in rows, predicted classes in columns",
    "classes": "F1 of each class",
    "reliability": "Reliability diagram: accuracy by confidence",
    "coverage": "Accuracy by coverage: the least confident predictions abstain",
    "corruptions": "Accuracy on corrupted images",
    "top_losses": "Top losses: most confident errors",
    "grad_cam": "Grad-CAM heat maps; wrong predictions in red",
    "importance": "Permutation importance of each group of features",
}
HEADLINES = (
    "accuracy",
    "top5_accuracy",
    "balanced_accuracy",
    "macro_f1",
    "loss",
    "ece",
    "images_per_s",
)


def render_evaluation_page(
    title: str,
    dataset: str,
    result: EvaluationResult,
    metrics: Mapping[str, float],
    plots: Mapping[str, Figure],
) -> str:
    """Return the HTML page of an evaluation.

    It shows headline metrics, all metrics, metrics by class, confused classes and plots.

    Args:
        title: heading of the page.
        dataset: name of the dataset.
        result: predictions and labels.
        metrics: metrics by name, including all of `HEADLINES`.
        plots: figures by a key of `CAPTIONS`; missing ones are left out.
    """
    environment = Environment(
        loader=PackageLoader("eyevsai.reports"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["uri"] = encode_figure
    page: str = environment.get_template("evaluation_page.html").render(
        title=title,
        dataset=dataset,
        result=result,
        metrics=metrics,
        headlines=HEADLINES,
        plots=[(CAPTIONS[name], plots[name]) for name in CAPTIONS if name in plots],
        by_class=sorted(
            zip(result.classes, result.metrics_by_class(), strict=True),
            key=lambda pair: pair[1]["f1"],
        ),
        confused=result.most_confused(),
    )
    return page
