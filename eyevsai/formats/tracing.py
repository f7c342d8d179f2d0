"""The learner's graph as torch.export sees it: what all formats are made from."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.export import Dim, ExportedProgram

from eyevsai.models.learner import Learner

EXAMPLE = (2, 96, 128, 3)  # of no square, so that height and width are told apart
FREE = ("batch", "height", "width")
INPUT, OUTPUT = "images", "probabilities"


def trace(learner: Learner) -> ExportedProgram:
    """From N,H,W,3 uint8 to N,C float32, with N, H and W free."""
    free = {axis: Dim(name, min=1) for axis, name in enumerate(FREE)}
    with quietly(), torch.no_grad():
        return torch.export.export(learner.graph(), (torch.zeros(EXAMPLE, dtype=torch.uint8),), dynamic_shapes=(free,))


@contextmanager
def quietly() -> Iterator[None]:
    """Inside, exporters keep to themselves what their users cannot change."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
