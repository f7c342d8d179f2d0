"""Features of a frozen backbone, computed once and stored in the cache folder."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import torch
from torch import Tensor

from eyevsai.core.cancellation import CancellationToken
from eyevsai.core.progress import track
from eyevsai.core.settings import list_settings
from eyevsai.data.augmentation import augment
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.seeding import make_generator
from eyevsai.data.settings import AugmentationSettings
from eyevsai.training.device import find_precision
from eyevsai.training.inference import evaluating
from eyevsai.training.settings import UnfreezingSettings
from eyevsai.training.staged_network import EVAL_BATCH, StagedNetwork

VERSION = 2  # to be increased when the same backbone yields other features


class FeatureCache:
    """Backbone features of views of the train images, and of the valid images as they are.

    The first view shows the train images as they are, the others are augmented. Views are drawn
    with a fixed seed, so that all runs and trials on the same split share them. The features of
    train images are computed in the precision of the training, those of valid images in float32, as
    predictions are.
    """

    def __init__(self, settings: UnfreezingSettings) -> None:
        self.settings = settings
        self.train: list[Tensor] = []  # per view N,D float32
        # N,D float32 of the images and, with `tta_flip`, of the mirror images
        self.valid: list[Tensor] = []
        self.train_labels = self.valid_labels = torch.empty(0, dtype=torch.int64)  # N

    def compute(
        self,
        network: StagedNetwork,
        digest: str,
        splits: tuple[Split, Split],
        preprocessing: Preprocessing,
        stop: CancellationToken,
    ) -> None:
        """Load the features from the cache folder, and compute those that are missing.

        Args:
            network: network with the frozen backbone.
            digest: digest of the backbone's structure and weights, part of the cache key.
            splits: train and valid.
            preprocessing: preprocessing of the network.
            stop: cancellation token, checked between batches.

        Raises:
            BaseException: the cancellation that `stop` requests. Finished views stay cached.
        """
        train, valid = splits
        extractor = _FeatureExtractor(network, preprocessing, self.settings, stop)
        self.train, self.valid = [], []
        self.train_labels, self.valid_labels = train.labels, valid.labels
        for number in range(self.settings.feature_views):
            label = f"Features, view {number + 1} of {self.settings.feature_views}"
            if number:
                source = f"{digest}/{self._augmentation()}/{number}"
                inputs = self._view(train, preprocessing, number)
            else:
                source, inputs = f"{digest}/as it is/False", _center_crops(train, preprocessing)
            self.train.append(extractor.load(train, source, label, inputs, is_train=True))
        for mirror in (False, True) if self.settings.tta_flip else (False,):
            source = f"{digest}/as it is/{mirror}"
            inputs = _center_crops(valid, preprocessing, mirror)
            self.valid.append(
                extractor.load(valid, source, "Features of valid", inputs, is_train=False)
            )

    def release(self) -> None:
        """Free the memory of the features once no epoch needs them."""
        self.train, self.valid = [], []

    def load(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Return the features of a random view of each train image, N,D float32.

        Args:
            indices: indices of the images in the train split, N int64.
            generator: source of the random choice of views.
        """
        views = torch.randint(len(self.train), (len(indices),), generator=generator)
        features = torch.empty(len(indices), self.train[0].shape[1])
        for number, view in enumerate(self.train):
            features[views == number] = view[indices[views == number]]
        return features

    def _augmentation(self) -> str:
        """Return the settings that change a view; `crop_share` changes the fine-tuning alone."""
        return repr(
            {
                each.name: getattr(self.settings, each.name)
                for each in list_settings(AugmentationSettings)
                if each.name != "crop_share"
            }
        )

    def _view(self, train: Split, preprocessing: Preprocessing, number: int) -> Iterator[Tensor]:
        for start in range(0, len(train), EVAL_BATCH):
            images = train.batch(range(start, min(start + EVAL_BATCH, len(train))))
            generator = make_generator(0, "view", number, start)
            yield augment(images, self.settings, preprocessing, generator, torch.device("cpu"))


def _center_crops(
    split: Split, preprocessing: Preprocessing, mirror: bool = False
) -> Iterator[Tensor]:
    for start in range(0, len(split), EVAL_BATCH):
        images = split.images(range(start, min(start + EVAL_BATCH, len(split))))
        batch = preprocessing.normalize(
            torch.cat([preprocessing.crop(image[None]) for image in images])
        )
        yield batch.flip(3) if mirror else batch


class _FeatureExtractor:
    """Computation of backbone features, N,D float32, through the cache folder."""

    def __init__(
        self,
        network: StagedNetwork,
        preprocessing: Preprocessing,
        settings: UnfreezingSettings,
        stop: CancellationToken,
    ) -> None:
        self.network = network
        self.preprocessing = preprocessing
        self.device = next(network.parameters()).device
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.precision = find_precision(settings.precision, self.device)
        self.stop = stop

    def load(
        self,
        split: Split,
        source: str,
        label: str,
        batches: Iterator[Tensor],
        *,
        is_train: bool,
    ) -> Tensor:
        """Return the features of a split from the cache folder; compute and store missing ones.

        Args:
            split: split whose images the inputs show.
            source: text that identifies backbone and view in the cache key.
            label: label of the progress bar.
            batches: inputs of the network, B,3,S,S float32; read only if features are missing.
            is_train: compute in the precision of the training instead of float32.
        """
        precision = self.precision if is_train else torch.float32
        tracked = track(batches, label, unit=EVAL_BATCH, total=len(split))
        # These values can change the last bit of a feature. As part of the key, they ensure that a
        # resumed run uses the same features as before.
        environment = (
            VERSION,
            EVAL_BATCH,
            self.device.type,
            torch.get_num_threads(),
            str(self.layout),
            str(precision),
            *_versions(),
        )
        key = f"{environment}/{self.preprocessing.to_json()}/{source}"
        return split.cached_features(
            key, lambda: self._compute(tracked, len(split), precision), self.stop.check
        )

    @torch.no_grad()
    def _compute(self, batches: Iterator[Tensor], count: int, precision: torch.dtype) -> Tensor:
        features, start = torch.empty(0), 0
        with evaluating(self.network):
            for batch in batches:
                self.stop.check()
                inputs = batch.to(self.device).contiguous(memory_format=self.layout)
                with torch.autocast(
                    self.device.type, precision, enabled=precision != torch.float32
                ):
                    rows = self.network.extract_features(inputs).float().cpu()
                if not start:
                    features = torch.empty(count, rows.shape[1])
                features[start : start + len(rows)] = rows
                start += len(rows)
        return features


def _versions() -> list[str]:
    return [version(package) for package in ("torchvision", "timm")]
