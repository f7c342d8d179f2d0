"""Summary of an evaluation in the description of its run, and in the model card."""

from __future__ import annotations

from datetime import datetime

from eyevsai.config import select_parameters
from eyevsai.evaluation.metric_names import BEST_EPOCH, VALID_ACCURACY, VALID_BEST
from eyevsai.models.factory import resolve_model
from eyevsai.reports.result_lines import format_evaluation
from eyevsai.tracking.run import Run
from eyevsai.workflows.evaluate.log_results import EvaluationLogger
from eyevsai.workflows.trained_model import TrainedModel


def log_summary(run: Run, source_model: TrainedModel, evaluation: EvaluationLogger) -> None:
    """Log the result in one line; for the model's own test split, the model card, too.

    Args:
        run: run with the results.
        source_model: the evaluated model.
        evaluation: the evaluation.
    """
    metrics, num_images = evaluation.metrics, len(evaluation.split)
    if not evaluation.is_own_split:
        name = f"Accuracy of {source_model.title} on {evaluation.dataset.name}:"
        run.log_result(format_evaluation(metrics, num_images, None, name))
        return
    training = source_model.run
    valid_accuracy = training.metrics.get(VALID_ACCURACY) if training else None
    run.log_result(format_evaluation(metrics, num_images, valid_accuracy))
    _log_card(run, source_model, evaluation)


def _log_card(run: Run, source_model: TrainedModel, evaluation: EvaluationLogger) -> None:
    """Log the model card with the metrics on the test split."""
    from eyevsai.reports.model_card import CARD, TrainingFacts, describe_model, render_card

    learner, training = evaluation.learner, source_model.run
    values = {**source_model.config, "dataset": evaluation.dataset.name}
    started_ms = training.started_ms if training else None
    facts = TrainingFacts(
        source_model.run_id,
        evaluation.dataset,
        select_parameters(values, resolve_model(learner.family, learner.variation)),
        {
            name.removeprefix(VALID_BEST): value
            for name, value in (training.metrics if training else {}).items()
            if name.startswith(VALID_BEST) and name != BEST_EPOCH
        },
        evaluation.metrics,
        None if started_ms is None else datetime.fromtimestamp(started_ms / 1000).astimezone(),
    )
    run.log_text(CARD, render_card(describe_model(learner), facts))
