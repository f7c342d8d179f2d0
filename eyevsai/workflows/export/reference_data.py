"""The images by which an export is held against its model, and by which a format chooses its
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eyevsai.core.errors import UserError
from eyevsai.core.progress import track
from eyevsai.data.dataset import Data, Split
from eyevsai.data.decode import decode
from eyevsai.data.seeding import derive_seed
from eyevsai.evaluation.metrics import Labels
from eyevsai.formats.base import Pixels
from eyevsai.formats.parity import ReferenceData
from eyevsai.models.learner import Learner
from eyevsai.workflows.trained_model import TrainedModel

AT_ONCE = 32  # images that are judged together


def load_reference_data(
    source_model: TrainedModel, learner: Learner, data: Data, count: int
) -> ReferenceData:
    """Images of the test split, as they lie in the cache and as they were.

    Raises:
        UserError: the test split is empty.
    """
    if not len(data.test):
        raise UserError(
            f"The test split of {data.dataset.name} is empty, and an export is held against its "
            "model by test images. Train with a --test-fraction above 0."
        )
    places = draw_indices(len(data.test), count, source_model.seed, "parity")
    items = [data.dataset.samples[data.test.rows[place]] for place in places]
    resized = squares(data.test, places, learner)
    depth = learner.preprocessing.depth
    return ReferenceData(
        learner,
        [item.name for item in items],
        resized,
        lambda: (decode(item.file.path, depth) for item in items),
        lambda: _batches(data.test, learner),
    )


def _batches(split: Split, learner: Learner) -> Iterator[tuple[Pixels, Labels]]:
    labels = split.labels.numpy()
    for start in track(range(0, len(split), AT_ONCE), "Judging", total=len(split), unit=AT_ONCE):
        places = list(range(start, min(start + AT_ONCE, len(split))))
        yield squares(split, places, learner), labels[places]


def draw_indices(total: int, count: int, seed: int, purpose: str) -> list[int]:
    random = np.random.default_rng(derive_seed(seed, "export", purpose))
    return sorted(random.choice(total, min(count, total), replace=False).tolist())


def squares(split: Split, places: list[int], learner: Learner) -> Pixels:
    """N,s,s,3: the middle of resized images, of one size so that they make batches."""
    return np.stack(
        [
            learner.preprocessing.center_square(image[None])[0].numpy()
            for image in split.images(places)
        ]
    )
