"""Construction of a learner and its training data."""

from __future__ import annotations

from dataclasses import replace

from eyevsai.config import TrainConfig
from eyevsai.data.dataset import Data, Dataset
from eyevsai.models.factory import build
from eyevsai.models.learner import Learner


def build_learner_and_data(config: TrainConfig, dataset: Dataset) -> tuple[Learner, Data]:
    """Return the prepared learner of a configuration, and the dataset opened for it.

    The learner's preprocessing gets the color depth of the dataset.

    Raises:
        UserError: the settings do not fit the images or the device, or the pretrained weights are
            not available.
    """
    model = config.model
    learner = build(model.family, model.variation, model.settings, dataset.classes, config.run.seed)
    learner.preprocessing = replace(learner.preprocessing, depth=dataset.curated.depth)
    learner.prepare(dataset.labels_of("train"))
    return learner, dataset.open(learner.preprocessing)
