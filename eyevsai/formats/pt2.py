"""PT2 format: the graph as an archive of torch.export."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.base import ExportSource, Format, Pixels, Runtime
from eyevsai.formats.tracing import suppress_warnings

MODEL = "model.pt2"


class Pt2(Format):
    """PT2 export of a network, which torch opens without the network's code."""

    name = "pt2"
    networks_only = True
    can_hold_code = True  # torch.export.load unpickles entries that the archive marks as pickles

    def write(self, source: ExportSource, folder: Path) -> None:
        """Write the exported program of the source to `model.pt2`."""
        import torch

        with suppress_warnings():
            torch.export.save(source.program, folder / MODEL)

    def open(self, folder: Path) -> Runtime:
        """Load the exported program on the CPU."""
        import torch

        with suppress_warnings():
            return TorchRuntime(torch.export.load(folder / MODEL).module())


class TorchRuntime:
    """Loaded torch module from images to probabilities."""

    def __init__(self, module: object) -> None:
        self.module = module

    def predict_proba(self, images: Pixels) -> Probabilities:
        """Return float32 probabilities (N,C) of uint8 images (N,H,W,3)."""
        import torch

        with torch.inference_mode():
            probabilities: Probabilities = self.module(
                torch.from_numpy(np.ascontiguousarray(images))
            ).numpy()  # type: ignore[operator]
        return probabilities
