"""Construction of a learner and its training data."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

from eyevsai.config import TrainConfig
from eyevsai.data.dataset import Data, Dataset
from eyevsai.models.factory import build
from eyevsai.models.learner import Learner
from eyevsai.training.batches import check_batches
from eyevsai.training.device import find_device, find_precision
from eyevsai.training.image_sizes import STEP
from eyevsai.training.limits import describe_limits, limit_settings
from eyevsai.training.settings import LearningSettings, NetworkSettings, TrainingSettings

log = logging.getLogger("eyevsai")

# docs/decisions/053-short-trainings.md, 055-shifts.md
SMALL_SIDE = 32  # px; images of at most this size have larger batches, and no random crops
SMALL_CROPS: dict[str, Any] = {"crop_scale": 1.0, "crop_margin": 1.0}
LARGEST_BATCH = 256
MIN_STEPS = 100  # steps of an epoch with a batch larger than the default
MILD_CROP = 0.6  # larger crops, of a dataset, are kept


def build_learner_and_data(config: TrainConfig, dataset: Dataset) -> tuple[Learner, Data]:
    """Return the prepared learner of a configuration, and the dataset opened for it.

    The learner's settings are limited to what the train split allows. Its preprocessing gets the
    color depth of the dataset.

    Raises:
        UserError: the settings do not fit the images or the device, or the pretrained weights are
            not available.
    """
    model = config.model
    learner = build(model.family, model.variation, model.settings, dataset.classes, config.run.seed)
    learner.preprocessing = replace(learner.preprocessing, depth=dataset.curated.depth)
    learner.prepare(dataset.labels_of("train"))
    return learner, dataset.open(learner.preprocessing)


def log_default_data(config: TrainConfig) -> None:
    """Log that a call without data uses the embedded dataset, and how to name other data."""
    if not config.explicit & {"data", "dataset"}:
        log.info(
            "No data was named: using the embedded dataset %s. For your images: --data FOLDER, a "
            "folder with a folder of images for each class",
            config.data.dataset,
        )


def adapt_image_size(config: TrainConfig, dataset: Dataset) -> TrainConfig:
    """Return the configuration with an image size that the images can fill.

    The default size is lowered to the median short side of the images, rounded up to a multiple of
    `STEP`, because enlarged images cost time. An explicit size is kept.
    """
    settings = config.model.settings
    if "image_size" in config.explicit or not isinstance(settings, LearningSettings):
        return config
    short_side = dataset.median_short_side()
    smallest = type(settings).SMALLEST_DEFAULT
    size = max(smallest, STEP * math.ceil(short_side / STEP))
    if size >= settings.image_size:
        return config
    log.info(
        "Images of %d px instead of %d px: their median short side is %.0f px (--image-size).",
        size,
        settings.image_size,
        short_side,
    )
    return config.with_settings(replace(settings, image_size=size))


def adapt_to_size(config: TrainConfig, num_images: int) -> TrainConfig:
    """Return the configuration with crops and batches that fit its image size.

    Args:
        config: settings of the run, after `adapt_image_size`.
        num_images: images of the train split.
    """
    return adapt_batch_size(adapt_small_crops(config), num_images)


def adapt_small_crops(config: TrainConfig) -> TrainConfig:
    """Return the configuration without random crops for small images.

    A random crop is enlarged, which blurs a small image, while predictions use sharp ones. Explicit
    crops are kept, and larger crops of a dataset.
    """
    settings = config.model.settings
    if (
        not isinstance(settings, NetworkSettings)
        or settings.image_size > SMALL_SIDE
        or {*SMALL_CROPS, "crop_share"} & config.explicit
        or settings.crop_scale >= MILD_CROP
    ):
        return config
    log.info(
        "No random crops, and predictions of the whole short side: images of %d px are small "
        "(--crop-scale, --crop-margin).",
        settings.image_size,
    )
    return config.with_settings(replace(settings, **SMALL_CROPS))


def find_adapted_crops(before: TrainConfig, after: TrainConfig) -> dict[str, Any]:
    """Return the settings of crops that differ in `after`, by name."""
    old, new = vars(before.model.settings), vars(after.model.settings)
    return {name: new[name] for name in SMALL_CROPS if name in new and new[name] != old[name]}


def adapt_batch_size(config: TrainConfig, num_images: int) -> TrainConfig:
    """Return the configuration with larger batches for many small images.

    With small images, a network from scratch spends a large part of a step on its optimizer. The
    default batch is doubled up to `LARGEST_BATCH`, as long as an epoch has `MIN_STEPS`. The default
    learning rate is multiplied by the square root of the factor. An explicit batch size keeps both.

    Args:
        config: settings of the run, after `adapt_image_size`.
        num_images: images of the train split.
    """
    settings = config.model.settings
    if (
        not isinstance(settings, NetworkSettings)
        or "batch_size" in config.explicit
        or settings.image_size > SMALL_SIDE
    ):
        return config
    factor = 1
    while 2 * factor * settings.batch_size <= min(LARGEST_BATCH, num_images / MIN_STEPS):
        factor *= 2
    if factor == 1:
        return config
    lr = settings.lr if "lr" in config.explicit else settings.lr * math.sqrt(factor)
    adapted = replace(settings, batch_size=factor * settings.batch_size, lr=lr)
    log.info(
        "Batches of %d instead of %d images, and a learning rate of %.4g instead of %.4g: the %d "
        "train images of %d px are many and small (--batch-size, --lr).",
        adapted.batch_size,
        settings.batch_size,
        adapted.lr,
        settings.lr,
        num_images,
        settings.image_size,
    )
    return config.with_settings(adapted)


def limit_to_data(config: TrainConfig, num_images: int) -> TrainConfig:
    """Return the configuration limited to what a train split of `num_images` allows.

    Does what `Learner.prepare` does to the settings of a torch family, without a network.

    Raises:
        UserError: the settings conflict with each other, the split or the device.
    """
    settings = config.model.settings
    if not isinstance(settings, TrainingSettings):
        return config
    limited = limit_settings(settings, num_images)
    check_batches(limited, num_images)
    find_precision(limited.precision, find_device(limited.device))
    return config.with_settings(limited)


def describe_data_limits(config: TrainConfig, num_images: int) -> list[str]:
    """Return a sentence for each setting that `limit_to_data` limits."""
    settings = config.model.settings
    return describe_limits(settings, num_images) if isinstance(settings, TrainingSettings) else []
