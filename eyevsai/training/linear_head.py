"""Linear head on frozen features: multinomial logistic regression with L2 regularisation.

The features are standardised first. The strength of the regularisation is that with the lowest
loss on the valid split. Such a head on the features of a pretrained network is a strong start for
fine-tuning (Kornblith et al. 2019, Do Better ImageNet Models Transfer Better?; Kumar et al. 2022,
Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from eyevsai.core.cancellation import CancellationToken

log = logging.getLogger("eyevsai")

# weights of the squared norm, relative to the mean loss of an image, from strong to weak
STRENGTHS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
MAX_ITERATIONS = 200


@dataclass(frozen=True)
class LinearHead:
    """Solution, for features that are not standardised."""

    weight: Tensor  # C,D float32
    bias: Tensor  # C float32
    strength: float
    train_loss: float
    train_accuracy: float


def solve_linear_head(
    train: tuple[Sequence[Tensor], Tensor],
    valid: tuple[Sequence[Tensor], Tensor],
    stop: CancellationToken,
    *,
    is_balanced: bool = False,
) -> LinearHead:
    """Return the head whose regularisation has the lowest loss on the valid split.

    Strengths are tried from strong to weak, each from the solution before, until the loss rises.

    Args:
        train: views of the features, each N,D float32, and the labels, N int64 from 0 to C-1.
        valid: views of the features, whose logits are averaged, and the labels.
        stop: cancellation token, checked between strengths.
        is_balanced: weight classes by their inverse frequency.

    Raises:
        BaseException: the cancellation that `stop` requests.
    """
    # here: the import takes a second
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    views, labels = train
    features = torch.cat(list(views))
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    inputs = ((features - mean) / scale).numpy()
    targets = labels.repeat(len(views)).numpy()
    model = LogisticRegression(
        max_iter=MAX_ITERATIONS,
        warm_start=True,
        class_weight="balanced" if is_balanced else None,
    )
    best: LinearHead | None = None
    best_loss = np.inf
    for strength in STRENGTHS:
        stop.check()
        model.C = 1 / (strength * len(inputs))
        with warnings.catch_warnings():
            # a solution that is not exact to the last digit is as good here
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(inputs, targets)
        weight, bias = _unstandardize(model.coef_, model.intercept_, mean, scale)
        loss, accuracy = _score(valid[0], valid[1], weight, bias)
        log.debug("Linear head, strength %g: valid loss %.4f, %.4f", strength, loss, accuracy)
        if loss >= best_loss:
            break
        best_loss = loss
        best = LinearHead(weight, bias, strength, *_score(views[:1], labels, weight, bias))
    assert best is not None  # the first loss is finite
    return best


def _unstandardize(
    coefficients: np.ndarray, intercepts: np.ndarray, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Return weight and bias for features as they are; two classes have one row here."""
    weight, bias = torch.from_numpy(coefficients), torch.from_numpy(intercepts)
    if len(weight) == 1:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    weight = (weight / scale).float()
    return weight, (bias - weight @ mean).float()


def _score(
    views: Sequence[Tensor], labels: Tensor, weight: Tensor, bias: Tensor
) -> tuple[float, float]:
    logits = torch.stack([view @ weight.T + bias for view in views]).mean(0)
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    return nn.functional.cross_entropy(logits, labels).item(), accuracy
