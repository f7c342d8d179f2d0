"""Source of an export, and images of parity checks and of the calibration of quantized formats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eyevsai.core.errors import UserError
from eyevsai.core.progress import track
from eyevsai.data.dataset import Data, Split
from eyevsai.data.decode import decode
from eyevsai.data.seeding import derive_seed
from eyevsai.evaluation.metrics import Labels
from eyevsai.formats.base import ExportSource, Pixels
from eyevsai.formats.parity import ReferenceData
from eyevsai.formats.settings import ExportSettings
from eyevsai.models.learner import Learner
from eyevsai.models.serialization import read_config
from eyevsai.workflows.trained_model import TrainedModel

BATCH_SIZE = 32  # images per batch of the whole test split


def load_reference_data(
    source_model: TrainedModel, learner: Learner, data: Data, count: int
) -> ReferenceData:
    """Return the reference data of a parity check, from the test split.

    Args:
        source_model: model whose seed the images are drawn with.
        learner: the loaded model.
        data: the model's dataset.
        count: number of images to compare, resized and as decoded; at most the whole test split.

    Raises:
        UserError: the test split is empty.
    """
    if not len(data.test):
        raise UserError(
            f"The test split of {data.dataset.name} is empty, but the parity check compares the "
            "export with the model on test images. Train with a --test-fraction above 0."
        )
    indices = draw_indices(len(data.test), count, source_model.seed, "parity")
    samples = [data.dataset.samples[data.test.rows[index]] for index in indices]
    resized = squares(data.test, indices, learner)
    depth = learner.preprocessing.depth
    return ReferenceData(
        learner,
        [sample.name for sample in samples],
        resized,
        lambda: (decode(sample.file.path, depth) for sample in samples),
        lambda: _batches(data.test, learner),
    )


def make_source(
    source_model: TrainedModel, learner: Learner, data: Data, settings: ExportSettings
) -> ExportSource:
    """Return the source of the exports, with train images to calibrate a quantization."""
    from eyevsai.serving.model_dir import MODEL_FOLDER

    config = read_config(source_model.model_dir / MODEL_FOLDER)

    def calibration() -> Pixels:
        indices = draw_indices(
            len(data.train), settings.calibration_images, source_model.seed, "calibration"
        )
        return squares(data.train, indices, learner)

    return ExportSource(
        learner,
        config["sha256"],
        source_model.version.threshold if source_model.version else None,
        calibration,
    )


def _batches(split: Split, learner: Learner) -> Iterator[tuple[Pixels, Labels]]:
    """Yield all resized images of a split with their labels, in batches."""
    labels = split.labels.numpy()
    starts = range(0, len(split), BATCH_SIZE)
    for start in track(starts, "Evaluating", total=len(split), unit=BATCH_SIZE):
        indices = list(range(start, min(start + BATCH_SIZE, len(split))))
        yield squares(split, indices, learner), labels[indices]


def draw_indices(total: int, count: int, seed: int, purpose: str) -> list[int]:
    """Return sorted indices that are drawn without replacement.

    Args:
        total: number of images to draw from.
        count: number of indices; all images if there are fewer.
        seed: seed of the draw.
        purpose: text that makes the draws for several purposes independent.
    """
    random = np.random.default_rng(derive_seed(seed, "export", purpose))
    return sorted(random.choice(total, min(count, total), replace=False).tolist())


def squares(split: Split, indices: list[int], learner: Learner) -> Pixels:
    """Return the center squares of resized images as one batch.

    Args:
        split: split with the images.
        indices: indices of N images in the split.
        learner: model whose preprocessing gives the size.

    Returns:
        N,s,s,3 uint8, where s is the short side after resizing.
    """
    return np.stack(
        [
            learner.preprocessing.center_square(image[None])[0].numpy()
            for image in split.images(indices)
        ]
    )
