"""The features that a frozen base gives, computed once and kept in the cache."""

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
from eyevsai.training.inference import evaluating
from eyevsai.training.settings import UnfreezingSettings
from eyevsai.training.staged_network import EVAL_BATCH, StagedNetwork

VERSION = 1  # raise it when the same base would give other features


class FeatureCache:
    """Some augmented views of each train image, and each valid image as it is, as the base
    describes them.

    Views are drawn from a seed of their own: all runs and trials on the same split share them.
    """

    def __init__(self, settings: UnfreezingSettings) -> None:
        self.settings = settings
        self._train: list[Tensor] = []  # of each view N,D float32
        # the images, and their mirror images where predictions average both
        self.valid: list[Tensor] = []

    def compute(
        self,
        network: StagedNetwork,
        digest: str,
        splits: tuple[Split, Split],
        preprocessing: Preprocessing,
        stop: CancellationToken,
    ) -> None:
        """Computes what the cache has not; `digest` tells the base from any other.

        Raises:
            BaseException: what `stop` was asked for; views that are done stay in the cache.
        """
        train, valid = splits
        describe = _FeatureExtractor(network, preprocessing, self.settings, stop)
        self._train, self.valid = [], []
        for number in range(self.settings.feature_views):
            made_from = f"{digest}/{self._augmentation()}/{number}"
            label = f"Features, view {number + 1} of {self.settings.feature_views}"
            self._train.append(
                describe.load(train, made_from, label, self._view(train, preprocessing, number))
            )
        for mirror in (False, True) if self.settings.tta_flip else (False,):
            made_from = f"{digest}/as it is/{mirror}"
            inputs = _center_crops(valid, preprocessing, mirror)
            self.valid.append(describe.load(valid, made_from, "Features of valid", inputs))

    def release(self) -> None:
        """Gives up the memory, when no epoch needs the features any more."""
        self._train, self.valid = [], []

    def load(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """Places N int64 of train images -> N,D float32: of each image one of its views."""
        chosen = torch.randint(len(self._train), (len(indices),), generator=generator)
        drawn = torch.empty(len(indices), self._train[0].shape[1])
        for number, view in enumerate(self._train):
            drawn[chosen == number] = view[indices[chosen == number]]
        return drawn

    def _augmentation(self) -> str:
        return repr(
            {
                each.name: getattr(self.settings, each.name)
                for each in list_settings(AugmentationSettings)
            }
        )

    def _view(self, train: Split, preprocessing: Preprocessing, number: int) -> Iterator[Tensor]:
        for start in range(0, len(train), EVAL_BATCH):
            images = list(train.images(range(start, min(start + EVAL_BATCH, len(train)))))
            generator = make_generator(0, "view", number, start)
            yield augment(images, self.settings, preprocessing, generator, torch.device("cpu"))


def _center_crops(split: Split, preprocessing: Preprocessing, mirror: bool) -> Iterator[Tensor]:
    for start in range(0, len(split), EVAL_BATCH):
        images = split.images(range(start, min(start + EVAL_BATCH, len(split))))
        batch = preprocessing.normalize(
            torch.cat([preprocessing.crop(image[None]) for image in images])
        )
        yield batch.flip(3) if mirror else batch


class _FeatureExtractor:
    """Features by a base: N,D float32, from the cache or into it."""

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
        self.stop = stop

    def load(self, split: Split, made_from: str, label: str, batches: Iterator[Tensor]) -> Tensor:
        """The features of a split, of which `batches` are the inputs."""
        shown = track(batches, label, unit=EVAL_BATCH, total=len(split))
        # all that may change the last bit of a feature: a run gone on with computes them as they
        # were
        computing = (
            VERSION,
            EVAL_BATCH,
            self.device.type,
            torch.get_num_threads(),
            str(self.layout),
            *_versions(),
        )
        key = f"{computing}/{self.preprocessing.to_json()}/{made_from}"
        return split.cached_features(key, lambda: self._compute(shown, len(split)), self.stop.check)

    @torch.no_grad()
    def _compute(self, batches: Iterator[Tensor], count: int) -> Tensor:
        features, done = torch.empty(0), 0
        with evaluating(self.network):
            for batch in batches:
                self.stop.check()
                inputs = batch.to(self.device).contiguous(memory_format=self.layout)
                described = self.network.extract_features(inputs).float().cpu()
                if not done:
                    features = torch.empty(count, described.shape[1])
                features[done : done + len(described)] = described
                done += len(described)
        return features


def _versions() -> list[str]:
    return [version(package) for package in ("torchvision", "timm")]
