"""A learner with the data that it learns from."""

from __future__ import annotations

from dataclasses import replace

from eyevsai.config import TrainConfig
from eyevsai.data.dataset import Data, Dataset
from eyevsai.models.factory import build
from eyevsai.models.learner import Learner


def build_learner_and_data(config: TrainConfig, dataset: Dataset) -> tuple[Learner, Data]:
    """The learner and its data, checked against each other."""
    model = config.model
    learner = build(model.family, model.variation, model.settings, dataset.classes, config.run.seed)
    learner.preprocessing = replace(learner.preprocessing, depth=dataset.curated.depth)
    learner.prepare(dataset.labels_of("train"))
    return learner, dataset.open(learner.preprocessing)
