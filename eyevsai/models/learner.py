"""Protocol that the learners of all families implement."""

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
from eyevsai.training.trainer import OnEpoch

Images = npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]  # N,H,W,3, or N of H,W,3


class Learner(Protocol):
    """A classifier of any family: it fits, predicts, and is saved without a pickle."""

    family: str
    variation: str
    settings: Settings
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    # divides the logits; 1 until it is fitted to held-out images
    temperature: float
    pruned: float  # the share of each layer's channels that was taken away; 0 when none was

    def prepare(self, train_labels: Sequence[str]) -> None:
        """Gets ready to learn from images of these classes; `preprocessing` is settled from then
        on.

        Raises:
            UserError: these settings cannot learn from them, or what learning begins with cannot be
                had.
        """

    def compute(self) -> dict[str, str]:
        """What will compute: device, precision and threads."""

    def fit(
        self, train: Split, valid: Split, on_epoch: OnEpoch, checkpoints: Checkpoints | None = None
    ) -> None:
        """Learns from `train`; calls `on_epoch(epoch, row)` after each pass, once if there are no
        passes.

        A family that learns in passes goes on from the last of `checkpoints` and saves its own
        there.
        """

    def predict_proba(self, images: Images) -> npt.NDArray[np.float32]:
        """N images uint8 RGB of any size -> N,C float32 probabilities, computed in float32."""

    def inference_module(self) -> nn.Module:
        """A module from N,H,W,3 uint8 of one size, any, to N,C float32 probabilities; on the CPU,
        to predict with.

        What is done with it leaves the learner as it was.
        """

    def summary(self) -> ModelSummary:
        """What the model is made of."""

    def num_parameters(self) -> int:
        """How many numbers are learned; 0 where that is not known before `fit`."""

    def tensors(self) -> dict[str, Tensor]:
        """All learned state, by name."""

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""


@runtime_checkable
class FeatureLearner(Learner, Protocol):
    """A learner that classifies features which have names."""

    def features(self, images: Images) -> npt.NDArray[np.float32]:
        """N images uint8 RGB of any size -> N,D float32 features."""

    def predict_features(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """N,D float32 features -> N,C float32 probabilities."""

    def feature_groups(self) -> Mapping[str, slice]:
        """Which columns of the features belong to which name."""


@runtime_checkable
class NetworkModel(Learner, Protocol):
    """A learner that is one torch network, from N,3,S,S to N,C logits."""

    network: nn.Module
    seed: int  # of every random draw while it learns

    def prune(self, share: float) -> None:
        """Takes the least `share` of each layer's channels away; raises UserError where there are
        none to lose.
        """


@runtime_checkable
class SpatialLearner(NetworkModel, Protocol):
    """A learner whose network averages a map of features over places."""

    def global_pool(self) -> nn.Module:
        """The layer that averages the map, N,K,h,w."""
