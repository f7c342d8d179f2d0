"""One-vs-rest kernel support vector machines (Cortes & Vapnik 1995)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eyevsai.core.progress import track
from eyevsai.models.shallow.settings import SvmSettings
from eyevsai.models.shallow.tensor_module import TensorModule

KERNELS = ("linear", "rbf", "poly")
KERNEL_STEPS, WEIGHT_STEPS = 2**8, 2**15  # their product, 2**23, is exact in float32
CACHE_MB = 256  # libsvm's cache of kernel rows, for each machine being fitted
# With at most as many images, their kernel (288 MB) is computed once for all classes: the fit takes
# two thirds of the time that it takes with the rows that libsvm computes for each class.
SHARED_KERNEL_ROWS = 6000


class KernelMachines(TensorModule):
    """Weighted sums of the kernels between an image and all support vectors; in float64."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the signed decision values of each class: N,K float64 -> N,C float64.

        With two classes, the values of the first are those of the second with the opposite sign.
        """
        products = inputs @ self.tensor("support").T
        scores = _matmul(self._kernel(inputs, products), self.tensor("weights")) + self.tensor(
            "intercept"
        )
        return torch.cat([-scores, scores], dim=1) if scores.shape[1] == 1 else scores

    def _kernel(self, inputs: Tensor, products: Tensor) -> Tensor:
        kernel = KERNELS[self.numbers["kernel"]]
        if kernel == "linear":
            return products
        gamma = self.tensor("gamma")
        if kernel == "poly":
            return (gamma * products) ** self.numbers["degree"]
        squares = (
            (inputs**2).sum(1, keepdim=True) + (self.tensor("support") ** 2).sum(1) - 2 * products
        )
        return torch.exp(-gamma * squares)


def _matmul(kernel: Tensor, weights: Tensor) -> Tensor:
    """Return `kernel @ weights` (N,V and V,C -> N,C), precise even if computed in float32.

    Some runtimes have no float64, and the terms cancel, so that rounding errors would dominate.
    The leading part of each factor is an integer number of steps; products of these are summed
    without rounding (Ozaki et al. 2012).
    """
    kernel_unit = kernel.abs().amax(1, keepdim=True).clamp(min=1e-30) / KERNEL_STEPS
    weight_unit = weights.abs().sum(0).clamp(min=1e-30) / WEIGHT_STEPS
    kernel_steps, weight_steps = (
        torch.floor(kernel / kernel_unit + 0.5),
        torch.floor(weights / weight_unit + 0.5),
    )
    large = kernel_steps * kernel_unit
    small = (kernel - large) @ weights + large @ (weights - weight_steps * weight_unit)
    return kernel_steps @ weight_steps * kernel_unit * weight_unit + small


def fit_svm(
    settings: SvmSettings,
    inputs: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float64],
    *,
    seed: int,
    threads: int,
) -> KernelMachines:
    """Fit scikit-learn's `SVC` to each class against the rest; one machine if there are two.

    Args:
        settings: kernel and regularisation.
        inputs: N,K projected features.
        labels: N class numbers. Numbers that do not occur get no decision values, so that all of 0
            to C-1 must occur.
        weights: N sample weights.
        seed: unused; part of the signature of all estimators.
        threads: machines that are fitted in parallel.

    Raises:
        ValueError: all images have the same class.
    """
    del seed  # the fit is deterministic
    gamma = settings.gamma or 1 / (inputs.shape[1] * max(float(inputs.var()), 1e-12))
    classes = np.unique(labels)
    positives = classes[1:] if len(classes) == 2 else classes
    fit = _Fit(settings, gamma, inputs, labels, weights)
    with ThreadPoolExecutor(threads) as pool:  # libsvm releases the GIL
        machines = list(track(pool.map(fit, positives), "Fitting SVMs", total=len(positives)))
    rows = np.unique(np.concatenate([machine.support_ for machine in machines]))
    coefficients = np.zeros((len(rows), len(machines)))
    for column, machine in enumerate(machines):
        coefficients[np.searchsorted(rows, machine.support_), column] = machine.dual_coef_[0]
    numbers = {"kernel": KERNELS.index(settings.kernel), "degree": settings.degree}
    return KernelMachines(
        support=torch.from_numpy(inputs[rows]),
        weights=torch.from_numpy(coefficients),
        intercept=torch.tensor(
            [float(machine.intercept_[0]) for machine in machines], dtype=torch.float64
        ),
        gamma=torch.tensor(gamma, dtype=torch.float64),
        **{name: torch.tensor(value) for name, value in numbers.items()},
    )


class _Fit:
    """Callable that fits an `SVC` to one class against the rest.

    `data` are the inputs, labels and weights of `fit_svm`, in this order.
    """

    def __init__(self, settings: SvmSettings, gamma: float, *data: npt.NDArray[Any]) -> None:
        self.settings, self.gamma = settings, gamma
        self.inputs, self.labels, self.weights = data
        self.kernel = self._compute_kernel()

    def __call__(self, label: int) -> Any:
        from sklearn.svm import SVC

        settings = self.settings
        machine = SVC(
            C=settings.C,
            kernel=settings.kernel if self.kernel is None else "precomputed",
            gamma=self.gamma,
            degree=settings.degree,
            cache_size=CACHE_MB,
        )
        inputs = self.inputs if self.kernel is None else self.kernel
        return machine.fit(inputs, self.labels == label, sample_weight=self.weights)

    def _compute_kernel(self) -> npt.NDArray[np.float64] | None:
        """Return the kernel of all pairs of images, N,N float64; None if there are too many."""
        from sklearn.metrics.pairwise import pairwise_kernels

        if len(self.inputs) > SHARED_KERNEL_ROWS:
            return None
        options: dict[str, dict[str, float]] = {
            "linear": {},
            "rbf": {"gamma": self.gamma},
            "poly": {"gamma": self.gamma, "degree": self.settings.degree, "coef0": 0.0},
        }
        kernel = self.settings.kernel
        computed: npt.NDArray[np.float64] = pairwise_kernels(
            self.inputs, metric=kernel, **options[kernel]
        )
        return computed
