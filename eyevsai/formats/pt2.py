"""PT2: the graph as torch.export keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.base import ExportSource, Format, Pixels, Runtime
from eyevsai.formats.tracing import quietly

MODEL = "model.pt2"


class Pt2(Format):
    """For networks: torch opens it without the code that built them."""

    name = "pt2"
    networks_only = True
    can_hold_code = True  # torch.export.load unpickles what the archive says is a pickle

    def write(self, source: ExportSource, folder: Path) -> None:
        """Write the exported program of the source."""
        import torch

        with quietly():
            torch.export.save(source.program, folder / MODEL)

    def open(self, folder: Path) -> Runtime:
        """Load the exported program on the CPU."""
        import torch

        with quietly():
            return TorchRuntime(torch.export.load(folder / MODEL).module())


class TorchRuntime:
    """A torch module from images to probabilities."""

    def __init__(self, module: object) -> None:
        self.module = module

    def predict_proba(self, images: Pixels) -> Probabilities:
        """Return float32 probabilities (N,C) of uint8 images (N,H,W,3)."""
        import torch

        with torch.inference_mode():
            found: Probabilities = self.module(
                torch.from_numpy(np.ascontiguousarray(images))
            ).numpy()  # type: ignore[operator]
        return found
