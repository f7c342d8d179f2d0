"""Linear head on frozen features: multinomial logistic regression with L2 regularisation.

The features are standardised first. The strength of the regularisation is that with the lowest
loss on the valid split. Such a head on the features of a pretrained network is a strong start for
fine-tuning (Kornblith et al. 2019, Do Better ImageNet Models Transfer Better?; Kumar et al. 2022,
Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.errors import JobError
from eyevsai.core.progress import track
from eyevsai.training.process_group import SINGLE_PROCESS, SingleProcess

Array = npt.NDArray[np.float32]

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
    is_late: Callable[[], bool] = lambda: False,
    group: SingleProcess = SINGLE_PROCESS,
) -> LinearHead:
    """Return the head whose regularisation has the lowest loss on the valid split.

    Strengths are tried from strong to weak, each from the solution before, until the loss rises or
    the time is over.

    Args:
        train: views of the features, each N,D float32, and the labels, N int64 from 0 to C-1.
        valid: views of the features, whose logits are averaged, and the labels.
        stop: cancellation token, checked between strengths.
        is_balanced: weight classes by their inverse frequency.
        is_late: returns True if the time is over; called between strengths.
        group: process group, whose ranks try the same strengths as rank 0 and end together.

    Raises:
        JobError: a feature is NaN or infinite.
        BaseException: the cancellation that `stop` requests.
    """
    views, labels = train
    features = torch.cat(list(views))
    mean, scale = features.mean(0), features.std(0).clamp_min(1e-6)
    features.sub_(mean).div_(scale)
    if not torch.isfinite(features).all():
        raise JobError(
            "Features of the backbone are NaN or infinite, so that no head fits them. Use other "
            "--weights or --precision float32."
        )
    targets = labels.repeat(len(views))
    heads: list[tuple[float, LinearHead]] = []
    candidates = _solve(features.numpy(), targets.numpy(), is_balanced=is_balanced)
    for strength, coefficients, intercepts in track(
        candidates, "Solving the linear head", total=len(STRENGTHS)
    ):
        group.check(stop)
        weight, bias = _unstandardize(coefficients, intercepts, mean, scale)
        own_loss, _ = _score(valid[0], valid[1], weight, bias)
        loss, late = group.broadcast_values([own_loss, is_late()])
        if heads and loss >= heads[-1][0]:
            break
        score = _score(views[:1], labels, weight, bias)
        heads.append((loss, LinearHead(weight, bias, strength, *score)))
        if late:
            break
    return heads[-1][1]


def _solve(
    features: Array, targets: npt.NDArray[np.int64], *, is_balanced: bool
) -> Iterator[tuple[float, Array, Array]]:
    """Yield each strength with the coefficients K,D and intercepts K of its solution."""
    # here: the import takes a second
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(
        max_iter=MAX_ITERATIONS,
        warm_start=True,
        class_weight="balanced" if is_balanced else None,
    )
    for strength in STRENGTHS:
        model.C = 1 / (strength * len(features))
        # one thread: threads of BLAS that share a core with another process wait for each other,
        # which took ten times as long, and their number would change the last digits
        with threadpool_limits(1), warnings.catch_warnings():
            # a solution that is not exact to the last digit is as good here
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features, targets)
        # copies: a warm start may continue in place
        yield strength, model.coef_.copy(), model.intercept_.copy()


def _unstandardize(
    coefficients: Array, intercepts: Array, mean: Tensor, scale: Tensor
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
