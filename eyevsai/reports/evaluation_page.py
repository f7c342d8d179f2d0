"""An evaluation as one HTML page that needs no other file."""

from __future__ import annotations

from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from eyevsai.evaluation.results import EvaluationResult
from eyevsai.reports.inline_images import encode_figure

CAPTIONS = {
    "confusion_matrix": "Confusion matrix: rows are true classes, columns what was predicted",
    "classes": "F1 of each class",
    "reliability": "Reliability: is a confidence of 80 % right in 80 % of cases?",
    "coverage": "Coverage against accuracy, when the least sure predictions are not answered",
    "corruptions": "Accuracy on spoiled images",
    "top_losses": "Most confident mistakes",
    "grad_cam": "Where the network looked (Grad-CAM); wrong predictions in red",
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
    """Render headline metrics, all metrics, each class, confused pairs and every plot."""
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
