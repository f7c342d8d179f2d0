"""Base class of the torch families: a network that the training loop fits."""

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
from eyevsai.training.limits import limit_settings
from eyevsai.training.pace import Pace
from eyevsai.training.settings import NetworkSettings, TrainingSettings
from eyevsai.training.strategy import TrainingStrategy
from eyevsai.training.trainer import OnEpoch, Trainer


class NetworkLearner:
    """Base of the learners of the torch families; a subclass implements `build_network`."""

    family: ClassVar[str]

    def __init__(
        self, variation: str, settings: TrainingSettings, classes: tuple[str, ...], seed: int
    ) -> None:
        self.variation = variation
        self.settings = settings
        self.classes = classes
        self.seed = seed
        self.preprocessing = Preprocessing(settings.image_size, margin=settings.crop_margin)
        self.temperature = 1.0
        self.pruned = 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "weights"))
            network = self.build_network()
        self.network = self._to_memory_format(network)

    def _to_memory_format(self, network: nn.Module) -> nn.Module:
        """Return the network in the memory format of the training.

        Results differ in the last bit between memory formats.
        """
        return network.to(
            memory_format=torch.channels_last
            if self.settings.channels_last
            else torch.contiguous_format
        )

    def build_network(self) -> nn.Module:
        """Return a new network from N,3,S,S float32 to N,C logits, initialised from torch's RNG.

        `__init__` calls this with the RNG seeded, after it has set all other attributes.

        Raises:
            TypeError: the subclass does not implement it.
        """
        raise TypeError(f"{type(self).__name__} does not implement build_network.")

    def fit(
        self,
        train: Split,
        valid: Split,
        on_epoch: OnEpoch,
        checkpoints: Checkpoints | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Train the network; it ends in evaluation mode with the weights of its best epoch.

        The temperature does not change. Arguments and errors are those of `Trainer.fit`.
        """
        Trainer(self.strategy(), self.settings, self.preprocessing, self.seed).fit(
            train, valid, on_epoch, checkpoints, pace
        )

    def strategy(self) -> TrainingStrategy:
        """Return the training strategy: by default, the whole network in all epochs."""
        return TrainingStrategy(self.network, cast(NetworkSettings, self.settings))

    def predict_proba(self, images: Images) -> npt.NDArray[np.float32]:
        """Return the N,C float32 probabilities of N uint8 images H,W,3 of any sizes.

        The network computes in float32; the temperature is applied. Zero images give shape 0,C.
        """
        if not len(images):
            return np.zeros((0, len(self.classes)), dtype=np.float32)
        tensors = (torch.from_numpy(np.ascontiguousarray(image)) for image in images)
        network = predictor(self.network, tta_flip=self.settings.tta_flip)
        logits = predict_logits(network, self.preprocessing, tensors)
        return (logits / self.temperature).softmax(1).numpy()

    def inference_module(self) -> nn.Module:
        """Return a module from N,H,W,3 uint8 to N,C float32 probabilities, in evaluation mode.

        It contains the resize, a CPU copy of the network (with `tta_flip`, if set), and the
        temperature.
        """
        network = predictor(
            copy.deepcopy(self.network).cpu().eval(), tta_flip=self.settings.tta_flip
        )
        classify = Classification(network, self.preprocessing, self.temperature)
        return InferenceModule(self.preprocessing, classify).eval()

    def global_pool(self) -> nn.Module:
        """Return the last `AdaptiveAvgPool2d` of the network.

        Raises:
            ValueError: the network has none.
        """
        *_, last = (
            layer for layer in self.network.modules() if isinstance(layer, nn.AdaptiveAvgPool2d)
        )
        return last

    def prepare(self, train_labels: Sequence[str]) -> None:
        """Limit the settings to what the train split allows; see `limit_settings`.

        Raises:
            UserError: the batch size, device or precision cannot be used, or the split is too
                small.
        """
        self.settings = limit_settings(self.settings, len(train_labels))
        check_batches(self.settings, len(train_labels))
        find_precision(self.settings.precision, find_device(self.settings.device))

    def compute(self) -> dict[str, str]:
        """Return the device, the resolved precision and the number of threads, for logging."""
        device = find_device(self.settings.device)
        precision = str(find_precision(self.settings.precision, device)).removeprefix("torch.")
        threads = self.settings.threads or torch.get_num_threads()
        return {"device": device.type, "precision": precision, "threads": str(threads)}

    def summary(self) -> ModelSummary:
        return summarize(self.network, self.preprocessing.image_size)

    def num_parameters(self) -> int:
        """Return the number of parameters of the network."""
        return sum(weight.numel() for weight in self.network.parameters())

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters and buffers of the network, which share its memory."""
        return self.network.state_dict()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load parameters and buffers, and set evaluation mode.

        Set `pruned` before: if it is not 0, the layers first get the shapes of the tensors.

        Raises:
            UserError: the tensors belong to another network.
        """
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
        """Remove the `share` (0 to 1) of each layer's channels with the smallest weights.

        Channel counts are rounded up to multiples of eight. The network must be on the CPU, and is
        in evaluation mode afterwards. Resets the temperature, and updates `pruned`, which
        accumulates the shares of all calls, without the rounding.

        Raises:
            UserError: no layer is wide enough to lose channels.
        """
        prune(self.network, share, self.preprocessing.image_size)
        self.network = self._to_memory_format(self.network)
        self.pruned = 1 - (1 - self.pruned) * (1 - share)
        self.temperature = 1.0  # the old one was fitted to the network before pruning


class Classification(nn.Module):
    """Network with normalisation and temperature, from crops N,S,S,3 uint8 to probabilities."""

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, temperature: float
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.temperature = temperature

    def forward(self, crops: Tensor) -> Tensor:
        """Return the N,C float32 probabilities of crops N,S,S,3 uint8."""
        logits: Tensor = self.network(self.preprocessing.normalize(crops)).float()
        return (logits / self.temperature).softmax(1)
