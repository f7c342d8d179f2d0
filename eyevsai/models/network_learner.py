"""The learner of every torch family: a network, fitted by the training loop."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import ClassVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eyevsai.core.errors import UserError
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.seeding import derive_seed
from eyevsai.models.inference_module import InferenceModule
from eyevsai.models.learner import Images
from eyevsai.models.pruning import fit_shapes, prune
from eyevsai.models.summary import ModelSummary, summarize
from eyevsai.training.batches import check_batches
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.device import find_device, find_precision
from eyevsai.training.inference import predict_logits, predictor
from eyevsai.training.settings import NetworkSettings, TrainingSettings
from eyevsai.training.strategy import TrainingStrategy
from eyevsai.training.trainer import OnEpoch, Trainer


class NetworkLearner:
    """Base of the torch families, which say only how their network is built."""

    family: ClassVar[str]

    def __init__(
        self, variation: str, settings: TrainingSettings, classes: tuple[str, ...], seed: int
    ) -> None:
        self.variation = variation
        self.settings = settings
        self.classes = classes
        self.seed = seed
        self.preprocessing = Preprocessing(settings.image_size)
        self.temperature = 1.0
        self.pruned = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights"))
            network = self.build_network()
        self.network = self._to_memory_format(network)

    def _to_memory_format(self, network: nn.Module) -> nn.Module:
        """What an image gives depends, to the last bit, on how weights lie in memory: as in
        training, always.
        """
        return network.to(
            memory_format=torch.channels_last
            if self.settings.channels_last
            else torch.contiguous_format
        )

    def build_network(self) -> nn.Module:
        """N,3,S,S float32 -> N,C logits, freshly initialised."""
        raise TypeError(f"{type(self).__name__} must say how its network is built")

    def fit(
        self, train: Split, valid: Split, on_epoch: OnEpoch, checkpoints: Checkpoints | None = None
    ) -> None:
        """Train the network with `Trainer.fit`, and raise the same errors."""
        Trainer(self.strategy(), self.settings, self.preprocessing, self.seed).fit(
            train, valid, on_epoch, checkpoints
        )

    def strategy(self) -> TrainingStrategy:
        """What of the network is trained when."""
        return TrainingStrategy(self.network, cast(NetworkSettings, self.settings))

    def predict_proba(self, images: Images) -> npt.NDArray[np.float32]:
        """Return calibrated float32 probabilities (N,C) of uint8 images (N,H,W,3)."""
        tensors = [torch.from_numpy(np.ascontiguousarray(image)) for image in images]
        if not tensors:
            return np.zeros((0, len(self.classes)), dtype=np.float32)
        network = predictor(self.network, tta_flip=self.settings.tta_flip)
        logits = predict_logits(network, self.preprocessing, tensors)
        return (logits / self.temperature).softmax(1).numpy()

    def inference_module(self) -> nn.Module:
        """Return resize, network and temperature as one module."""
        network = predictor(
            copy.deepcopy(self.network).cpu().eval(), tta_flip=self.settings.tta_flip
        )
        classify = Classification(network, self.preprocessing, self.temperature)
        return InferenceModule(self.preprocessing, classify).eval()

    def global_pool(self) -> nn.Module:
        """The layer that averages the last map over places."""
        *_, last = (
            layer for layer in self.network.modules() if isinstance(layer, nn.AdaptiveAvgPool2d)
        )
        return last

    def prepare(self, train_labels: Sequence[str]) -> None:
        check_batches(self.settings, len(train_labels))
        find_precision(self.settings.precision, find_device(self.settings.device))

    def compute(self) -> dict[str, str]:
        """Return device, precision and threads, as they are logged."""
        device = find_device(self.settings.device)
        precision = str(find_precision(self.settings.precision, device)).removeprefix("torch.")
        threads = self.settings.threads or torch.get_num_threads()
        return {"device": device.type, "precision": precision, "threads": str(threads)}

    def summary(self) -> ModelSummary:
        return summarize(self.network, self.preprocessing.image_size)

    def num_parameters(self) -> int:
        """Parameters of the network."""
        return sum(weight.numel() for weight in self.network.parameters())

    def tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the network."""
        return self.network.state_dict()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load parameters and buffers; raise UserError if they are those of another network."""
        try:
            if self.pruned:
                fit_shapes(self.network, tensors)
                self.network = self._to_memory_format(self.network)
            self.network.load_state_dict(tensors)
        except (RuntimeError, KeyError, ValueError) as error:
            raise UserError(
                f"The saved weights do not fit {self.family}/{self.variation}: {error}"
            ) from error
        self.network.eval()

    def prune(self, share: float) -> None:
        """Remove the given share of the channels, the least important first."""
        prune(self.network, share, self.preprocessing.image_size)
        self.network = self._to_memory_format(self.network)
        self.pruned = 1 - (1 - self.pruned) * (1 - share)
        self.temperature = 1.0  # it was fitted to another network


class Classification(nn.Module):
    """From crops N,S,S,3 uint8 to N,C float32 probabilities."""

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, temperature: float
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.temperature = temperature

    def forward(self, crops: Tensor) -> Tensor:
        """Normalise, classify."""
        logits: Tensor = self.network(self.preprocessing.normalize(crops)).float()
        return (logits / self.temperature).softmax(1)
