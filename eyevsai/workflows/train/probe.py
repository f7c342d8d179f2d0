"""Probe of a machine: speed of decoding, training and evaluation, measured in seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from eyevsai.config import TrainConfig
from eyevsai.core.cores import count_cores
from eyevsai.data.dataset import Dataset, Split
from eyevsai.data.pixel_cache import PixelCache, is_cached, resize_sample
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.models.factory import build
from eyevsai.models.shallow.learner import ShallowLearner
from eyevsai.training.settings import TrainingSettings, UnfreezingSettings
from eyevsai.training.trainer_state import EpochMetrics
from eyevsai.workflows.train.setup import LARGEST_BATCH, SMALL_SIDE

log = logging.getLogger("eyevsai")

BATCH = 64  # at most, except with small images: smaller batches than those of training are slower
SHALLOW_IMAGES, IMAGES_PER_CLASS = 256, 6  # of the probe of the shallow family
SAMPLES = 8  # files that are decoded to estimate the time of the pixel cache


@dataclass(frozen=True)
class Speed:
    """Throughput of a model, in images per second."""

    train: float
    evaluation: float

    def at(self, size: int, measured_size: int) -> Speed:
        """Return the expected speed with images of another size: time follows the area."""
        factor = (measured_size / size) ** 2
        return Speed(self.train * factor, self.evaluation * factor)


def measure_decoding(dataset: Dataset, preprocessing: Preprocessing) -> float:
    """Return the expected seconds to decode and resize a dataset whose pixels are not cached.

    The decoder takes most of them, so that they hardly depend on the image size.
    """
    samples = dataset.samples
    chosen = samples[:: max(1, len(samples) // SAMPLES)][:SAMPLES]
    resize_sample(chosen[0], preprocessing, dataset.cache.root)  # pays for imports and threads
    start = time.perf_counter()
    for sample in chosen:
        resize_sample(sample, preprocessing, dataset.cache.root)
    return (time.perf_counter() - start) / len(chosen) * len(samples) / count_cores()


def measure_speed(config: TrainConfig, dataset: Dataset) -> Speed:
    """Return the throughput of training and evaluation, measured in seconds on random images.

    Two short epochs are trained with another network of the same settings. The first one pays for
    the preparation of kernels and memory; the second one is measured.
    """
    settings = config.model.settings
    assert isinstance(settings, TrainingSettings)
    parts = settings.num_micro_batches
    largest = LARGEST_BATCH if settings.image_size <= SMALL_SIDE else BATCH
    num_images = len(dataset.labels_of("train"))
    batch = max(2 * parts, min(settings.batch_size, largest, num_images) // parts * parts)
    # no class weights: with more classes than images, those of missing classes are infinite
    changes: dict[str, Any] = {
        "batch_size": batch,
        "class_weights": False,
        "minutes": None,
        "devices": 1,
    }
    if isinstance(settings, UnfreezingSettings):
        changes |= {"freeze_epochs": 0, "fine_tune_epochs": 2, "weights": "none"}
    else:
        changes |= {"epochs": 2, "initial_scale": 1.0}
    probed = replace(settings, **changes, warmup_epochs=0.0, dropout_warmup_epochs=0.0)
    classes = tuple(dataset.classes)
    model = config.model
    learner = build(model.family, model.variation, probed, classes, config.run.seed)
    shapes = [
        learner.preprocessing.resized_shape(sample.record.height, sample.record.width)
        for sample in dataset.samples[:: max(1, len(dataset.samples) // (2 * batch))]
    ]
    split = _random_split(shapes, 2 * batch, len(classes))
    ends: list[float] = []
    rates: list[float] = []

    def _on_epoch(epoch: int, metrics: EpochMetrics) -> None:
        del epoch
        ends.append(time.perf_counter())
        rates.append(metrics["images_per_s"])

    with hiding_log():
        learner.fit(split, split, _on_epoch)
    evaluation_s = ends[1] - ends[0] - len(split) / rates[1]
    return Speed(rates[1], len(split) / max(evaluation_s, 1e-3))


def measure_shallow(config: TrainConfig, dataset: Dataset) -> float:
    """Return the expected seconds to train a model of the shallow family on a dataset.

    Features take the same time for each image; the time of the estimator grows with the square of
    their number.
    """
    model, classes = config.model, tuple(dataset.classes)
    learner = build(model.family, model.variation, model.settings, classes, config.run.seed)
    assert isinstance(learner, ShallowLearner)
    count = max(SHALLOW_IMAGES, IMAGES_PER_CLASS * len(classes))
    shapes = [
        learner.preprocessing.resized_shape(sample.record.height, sample.record.width)
        for sample in dataset.samples[:: max(1, len(dataset.samples) // count)]
    ]
    split = _random_split(shapes, count, len(classes))
    start = time.perf_counter()
    learner.extract(split)
    features_s = time.perf_counter() - start
    learner.fit(split, split, lambda *_: None)
    fit_s = max(0.0, time.perf_counter() - start - 3 * features_s)
    num_train, num_all = len(dataset.labels_of("train")), len(dataset.samples)
    is_decoded = is_cached(dataset.cache, dataset.fingerprint, learner.preprocessing)
    decoding_s = 0.0 if is_decoded else measure_decoding(dataset, learner.preprocessing)
    return decoding_s + features_s * num_all / count + fit_s * (num_train / count) ** 2


def _random_split(shapes: Sequence[tuple[int, int]], count: int, num_classes: int) -> Split:
    """Return `count` images of random pixels with the given shapes, repeated as needed."""
    sizes = np.array([shapes[number % len(shapes)] for number in range(count)], dtype=np.int32)
    lengths = 3 * sizes.astype(np.int64).prod(axis=1)
    generator = np.random.default_rng(0)
    flat = generator.integers(0, 256, int(lengths.sum()), dtype=np.uint8)
    pixels = PixelCache(flat, sizes, np.concatenate([[0], np.cumsum(lengths)[:-1]]))
    labels = torch.arange(count) % num_classes
    labels[-1] = num_classes - 1  # the highest label sets the number of classes of a training
    return Split(pixels, range(count), labels)


@contextmanager
def hiding_log() -> Iterator[None]:
    """Hide log lines below ERROR inside the block: those of a probe are not those of a run."""
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
