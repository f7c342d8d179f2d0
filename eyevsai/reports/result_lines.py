"""Results of trainings and evaluations in one line, for the descriptions of runs."""

from __future__ import annotations

from collections.abc import Mapping


def format_training(
    accuracy: float, best_epoch: int, num_epochs: int, parameters: int | None
) -> str:
    """Return the result of a training.

    Args:
        accuracy: accuracy on the valid split of the best epoch.
        best_epoch: number of the best epoch.
        num_epochs: number of trained epochs.
        parameters: number of parameters; None or 0 if the model has none.
    """
    epochs = f" in epoch {best_epoch} of {num_epochs}" if num_epochs > 1 else ""
    size = f"; {parameters:,} parameters" if parameters else ""
    return f"Valid accuracy {accuracy:.4f}{epochs}{size}."


def format_evaluation(
    metrics: Mapping[str, float],
    num_images: int,
    valid_accuracy: float | None,
    name: str = "Test accuracy",
) -> str:
    """Return the result of an evaluation.

    Args:
        metrics: metrics by name, with the interval of the accuracy.
        num_images: number of evaluated images.
        valid_accuracy: accuracy of the training on the valid split; None to leave it out.
        name: words for the accuracy at the start of the line.
    """
    valid = "" if valid_accuracy is None else f"; valid accuracy {valid_accuracy:.4f}"
    return (
        f"{name} {metrics['accuracy']:.4f} (95 % interval {format_interval(metrics)}) on "
        f"{num_images:,} images{valid}."
    )


def format_interval(metrics: Mapping[str, float]) -> str:
    """Return the 95 % interval of the accuracy: `0.9888 to 1.0000`."""
    return f"{metrics['accuracy_low']:.4f} to {metrics['accuracy_high']:.4f}"
