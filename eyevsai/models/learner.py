"""Protocols that the learners of the families implement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from eyevsai.core.settings import Settings
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.models.summary import ModelSummary
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.pace import Pace
from eyevsai.training.trainer import OnEpoch

Images = npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]  # N,H,W,3, or N of H,W,3


class Learner(Protocol):
    """Classifier of any family: fitting, prediction, and learned state as tensors.

    Tensors and JSON values are the whole saved state; nothing is pickled.
    """

    family: str
    variation: str
    settings: Settings
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    # divisor of the logits; 1 until it is fitted to held-out images
    temperature: float
    pruned: float  # share of the channels removed from each layer; 0 if not pruned

    def prepare(self, train_labels: Sequence[str]) -> None:
        """Prepare fitting to train images with these labels.

        `preprocessing` and `settings` are final afterwards: values that the train split does not
        allow are limited.

        Raises:
            UserError: the settings do not fit the images or the device, or the pretrained weights
                are not available.
        """

    def compute(self) -> dict[str, str]:
        """Return the device, precision and number of threads of the computation, for logging."""

    def fit(
        self,
        train: Split,
        valid: Split,
        on_epoch: OnEpoch,
        checkpoints: Checkpoints | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Fit the model to `train`.

        Args:
            train: images and labels to fit to.
            valid: images and labels that select the best epoch; never fitted to.
            on_epoch: called with the epoch, from 1, and its metrics after each epoch; once, as
                epoch 1, by a learner without epochs.
            checkpoints: store of checkpoints. A learner with epochs resumes from the last one and
                saves new ones; a learner without epochs ignores it.
            pace: positions in the schedule, and end of the time budget; a learner without epochs
                ignores it.
        """

    def predict_proba(self, images: Images) -> npt.NDArray[np.float32]:
        """Return the N,C float32 probabilities of N uint8 RGB images of any sizes."""

    def inference_module(self) -> nn.Module:
        """Return a module from N,H,W,3 uint8 to N,C float32 probabilities.

        H and W are arbitrary, but equal for all images of a batch. The module is on the CPU and in
        evaluation mode. Moving or converting it must not change the learner.
        """

    def summary(self) -> ModelSummary:
        """Return the layers and parameter counts of the model."""

    def num_parameters(self) -> int:
        """Return the number of learned values; 0 if it is unknown before `fit`."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the complete learned state by name."""

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore the state that `tensors` returned.

        Raises:
            UserError: the tensors belong to another model.
        """


@runtime_checkable
class FeatureLearner(Learner, Protocol):
    """Learner that classifies named groups of image features."""

    def features(self, images: Images) -> npt.NDArray[np.float32]:
        """Return the N,D float32 features of N uint8 RGB images of any sizes."""

    def predict_features(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the N,C float32 probabilities of N,D float32 features."""

    def feature_groups(self) -> Mapping[str, slice]:
        """Return the columns of the features of each group, by the name of the group."""


@runtime_checkable
class NetworkModel(Learner, Protocol):
    """Learner with one torch network, from N,3,S,S float32 to N,C logits."""

    network: nn.Module
    seed: int  # seed of all random draws of the training

    def prune(self, share: float) -> None:
        """Remove the `share` (0 to 1) of each layer's channels with the smallest weights.

        Raises:
            UserError: no layer is wide enough to lose channels.
        """


@runtime_checkable
class SpatialLearner(NetworkModel, Protocol):
    """Learner whose network averages a feature map over spatial positions."""

    def global_pool(self) -> nn.Module:
        """Return the global average pooling layer; its input is the feature map N,K,h,w."""
