"""Learner of the shallow family: features, projection, classical estimator and calibration."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eyevsai.core.errors import UserError
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.seeding import derive_seed
from eyevsai.features.extractor import Extractor
from eyevsai.models.inference_module import InferenceModule
from eyevsai.models.learner import Images
from eyevsai.models.shallow.calibration import FOLDS, Temperature, fit_temperature
from eyevsai.models.shallow.extraction import extract_features, fit_codebooks
from eyevsai.models.shallow.forest import Forest, fit_forest
from eyevsai.models.shallow.projection import Projection, fit_projection
from eyevsai.models.shallow.settings import ShallowSettings
from eyevsai.models.shallow.svm import KernelMachines, fit_svm
from eyevsai.models.shallow.tensor_module import TensorModule
from eyevsai.models.summary import Layer, ModelSummary
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.pace import Pace
from eyevsai.training.trainer import OnEpoch

EXTRACT_BATCH = 256  # images processed at once, to bound memory

ESTIMATORS: dict[str, tuple[type[TensorModule], Callable[..., TensorModule]]] = {
    "svm_hog_lbp": (KernelMachines, fit_svm),
    "rf_hog_lbp": (Forest, fit_forest),
}


class ShallowLearner:
    """Learner that fits a classical estimator to image features in a single pass."""

    family = "shallow"
    pruned = 0.0

    def __init__(
        self, variation: str, settings: ShallowSettings, classes: tuple[str, ...], seed: int
    ) -> None:
        self.variation = variation
        self.settings = settings
        self.classes = classes
        self.seed = seed
        self.preprocessing = Preprocessing(settings.image_size)
        self.temperature = 1.0
        self.extractor = Extractor(settings, settings.image_size)

    def prepare(self, train_labels: Sequence[str]) -> None:
        """Raise UserError if a class has fewer than `FOLDS` train images, for the calibration."""
        small = [
            f"{label} ({count})" for label, count in Counter(train_labels).items() if count < FOLDS
        ]
        if small:
            raise UserError(
                f"Calibration needs {FOLDS} train images or more of each class; too few of: "
                f"{', '.join(small[:10])}. "
                "Add images, or lower --valid-fraction or --test-fraction."
            )

    def compute(self) -> dict[str, str]:
        return {"device": "cpu", "precision": "float64", "threads": str(self._threads())}

    def fit(
        self,
        train: Split,
        valid: Split,
        on_epoch: OnEpoch,
        checkpoints: Checkpoints | None = None,
        pace: Pace | None = None,
    ) -> None:
        """Fit the estimator to all of train, and the temperature by 3-fold cross-validation.

        Calls `on_epoch` once, with epoch 1. Ignores `checkpoints` and `pace`.
        """
        del checkpoints, pace  # a single pass, which cannot be resumed
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        self.extractor.load_state_dict(fit_codebooks(self.extractor, self.preprocessing, train))
        start = time.perf_counter()
        features = self.extract(train)
        rate = len(train) / (time.perf_counter() - start)
        self.projection_ = fit_projection(
            self.settings,
            features.numpy(),
            self.extractor.groups,
            derive_seed(self.seed, "projection"),
        )
        with torch.inference_mode():
            inputs = self.projection_(features).numpy()
        labels = train.labels.numpy()
        fit = _Fit(self, inputs, labels)
        self.temperature_ = fit_temperature(
            fit.scores, labels, derive_seed(self.seed, "calibration")
        )
        self.decision_ = fit(np.arange(len(labels)))
        metrics = {f"train/{name}": value for name, value in self._score(features, labels).items()}
        valid_scores = self._score(self.extract(valid), valid.labels.numpy())
        metrics |= {f"valid/{name}": value for name, value in valid_scores.items()}
        on_epoch(1, metrics | {"images_per_s": rate})

    def predict_proba(self, images: Images) -> npt.NDArray[np.float32]:
        return self.predict_features(self.features(images))

    def features(self, images: Images) -> npt.NDArray[np.float32]:
        """Return the N,D float32 features of N uint8 RGB images of any sizes."""
        features = torch.empty(len(images), self.extractor.dimensions)
        for start in range(0, len(images), EXTRACT_BATCH):
            batch = images[start : start + EXTRACT_BATCH]
            crops = [
                self.preprocessing.crop(torch.from_numpy(np.ascontiguousarray(image))[None])
                for image in batch
            ]
            features[start : start + len(batch)] = self.extractor.extract(torch.cat(crops))
        return features.numpy()

    @torch.inference_mode()
    def predict_features(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return the N,C float32 probabilities of N,D float32 features."""
        probabilities = torch.empty(len(features), len(self.classes))
        calibrate = self._calibration()
        for start in range(0, len(features), EXTRACT_BATCH):
            batch = torch.from_numpy(features[start : start + EXTRACT_BATCH])
            scores = self.decision_(self.projection_(batch))
            probabilities[start : start + len(batch)] = calibrate(scores)
        return probabilities.numpy()

    def feature_groups(self) -> Mapping[str, slice]:
        """Return the columns of `features` of each group, by the names in --features."""
        return self.extractor.groups

    def inference_module(self) -> nn.Module:
        """Return a module from N,H,W,3 uint8 to N,C float32 that shares the learner's tensors."""
        parts = (self.extractor, self.projection_, self.decision_, self._calibration())
        return InferenceModule(self.preprocessing, nn.Sequential(*parts)).eval()

    def summary(self) -> ModelSummary:
        """Return the feature groups and, after `fit`, the fitted parts with their sizes.

        The FLOPs are None.
        """
        layers = [
            Layer(name, "features", (columns.stop - columns.start,), 0)
            for name, columns in self.extractor.groups.items()
        ]
        for name, part in self._fitted().items():
            count = sum(tensor.numel() for tensor in part.state_dict().values())
            layers.append(Layer(name, type(part).__name__, (), count))
        return ModelSummary(layers, self.num_parameters(), None)

    def num_parameters(self) -> int:
        """Return the number of learned values; 0 before `fit`."""
        return sum(tensor.numel() for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of all fitted parts; none before `fit`."""
        return {
            f"{name}.{key}": tensor
            for name, part in self._fitted().items()
            for key, tensor in part.state_dict().items()
        }

    def _fitted(self) -> dict[str, nn.Module]:
        """Return the fitted modules by name; empty before `fit`."""
        names = ("projection", "decision", "temperature")
        parts = {name: getattr(self, f"{name}_") for name in names if hasattr(self, f"{name}_")}
        if parts and self.settings.word_groups:
            parts["codebooks"] = self.extractor
        return parts

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Load codebooks, projection, decision and temperature.

        Raises:
            UserError: the tensors do not fit the variation or the features.
        """
        try:
            codebooks = {
                name.removeprefix("codebooks."): tensor
                for name, tensor in tensors.items()
                if name.startswith("codebooks.")
            }
            self.extractor.load_state_dict(codebooks)
            self.projection_ = Projection.restore("projection", tensors)
            self.decision_ = ESTIMATORS[self.variation][0].restore("decision", tensors)
            self.temperature_ = Temperature.restore("temperature", tensors)
            self.predict_features(np.zeros((1, self.extractor.dimensions), dtype=np.float32))
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            raise UserError(
                f"The saved tensors do not fit {self.family}/{self.variation}: {error}"
            ) from error

    def extract(self, split: Split) -> Tensor:
        """Return the N,D float32 features of all images of a split.

        They are read from the cache, or computed in worker processes and stored in it.
        """
        return extract_features(self.extractor, self.preprocessing, split)

    def _score(self, features: Tensor, labels: npt.NDArray[np.int64]) -> dict[str, float]:
        """Return loss (mean negative log likelihood) and accuracy."""
        probabilities = self.predict_features(features.numpy())
        likelihoods = probabilities[np.arange(len(labels)), labels].astype(np.float64)
        loss = abs(float(np.log(np.maximum(likelihoods, np.finfo(np.float32).tiny)).mean()))
        return {"loss": loss, "accuracy": float((probabilities.argmax(1) == labels).mean())}

    def _calibration(self) -> Temperature:
        """Return the fitted calibration combined with `temperature`, which was fitted later."""
        return Temperature(factor=self.temperature_.tensor("factor") / self.temperature)

    def _threads(self) -> int:
        return self.settings.threads or torch.get_num_threads()


class _Fit:
    """Callable that fits the variation's estimator to rows of the train split.

    `inputs` are the N,K float64 projected features of the train split, `labels` its N class
    numbers.
    """

    def __init__(
        self,
        learner: ShallowLearner,
        inputs: npt.NDArray[np.float64],
        labels: npt.NDArray[np.int64],
    ) -> None:
        self.learner, self.inputs, self.labels = learner, inputs, labels

    def __call__(self, rows: npt.NDArray[np.intp]) -> TensorModule:
        from sklearn.utils.class_weight import compute_sample_weight

        learner, labels = self.learner, self.labels[rows]
        weights = compute_sample_weight(
            "balanced" if learner.settings.class_weights else None, labels
        )
        estimator: Any = ESTIMATORS[learner.variation][1]
        module: TensorModule = estimator(
            learner.settings,
            self.inputs[rows],
            labels,
            weights,
            seed=derive_seed(learner.seed, "estimator"),
            threads=learner._threads(),
        )
        return module

    def scores(self, rows: npt.NDArray[np.intp]) -> Callable[[npt.NDArray[np.intp]], Tensor]:
        """Fit an estimator to `rows`; return a function from other rows to their scores N,C."""
        estimator = self(rows)

        @torch.inference_mode()
        def score(other_rows: npt.NDArray[np.intp]) -> Tensor:
            """Return the N,C float64 scores of other rows."""
            batches = torch.from_numpy(self.inputs[other_rows]).split(EXTRACT_BATCH)
            return torch.cat([estimator(batch) for batch in batches])

        return score
