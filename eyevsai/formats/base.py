"""What every export format promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from eyevsai.core.errors import UserError
from eyevsai.core.extras import missing_extra
from eyevsai.evaluation.metrics import Probabilities
from eyevsai.formats.tracing import convert, trace
from eyevsai.models.learner import Learner, NetworkModel

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

Pixels = npt.NDArray[np.uint8]  # N,H,W,3


class Runtime(Protocol):
    """An export that was opened. Several threads may ask it at once."""

    def predict_proba(self, images: Pixels) -> Probabilities:
        """N,H,W,3 uint8 of any size -> N,C float32 probabilities."""


@dataclass(frozen=True)
class ExportSource:
    """What leaves: a model, where it answers, and train images by which a format may choose its
    numbers.
    """

    learner: Learner
    weights_sha256: str  # of the file that the learner was loaded from
    threshold: float | None
    calibration: Callable[[], Pixels]  # N,s,s,3 with s the short side after resizing

    @cached_property
    def program(self) -> ExportedProgram:
        """The learner's graph as torch.export sees it; traced once, whatever the number of
        formats.
        """
        return trace(self.learner)

    @cached_property
    def onnx(self) -> ModelProto:
        """The same in ONNX; five formats are made of it."""
        return convert(self.program)


class Format(ABC):
    """A kind of export: its files are written into a folder, and opened there without eyevsai's
    networks.

    A graph takes raw images, N,H,W,3 uint8 of any size, and resizes, normalises and classifies
    them.
    """

    name: ClassVar[str]
    example: ClassVar[str | None] = None  # the format whose script it ships; by default its own
    networks_only: ClassVar[bool] = False
    extra: ClassVar[tuple[str, str] | None] = None  # of pyproject, and the module that it brings
    can_hold_code: ClassVar[bool] = False  # that runs as somebody else's file is opened
    tolerance: ClassVar[float] = 1e-5  # of a probability, from the same resized pixels
    # of accuracy, that a format may lose which computes in fewer bits
    points: ClassVar[float | None] = None
    # the share of images for which such a format has to name the model's class
    agreement: ClassVar[float] = 0.0

    def check(self, learner: Learner) -> None:
        """Raises UserError when the learner cannot leave in this format, or on this machine."""
        if self.networks_only and not isinstance(learner, NetworkModel):
            raise UserError(
                f"{learner.family} has no network, which --format {self.name} is for: use "
                "--format onnx."
            )
        self.check_installed()

    def check_installed(self) -> None:
        """Raises UserError when what opens this format is not installed."""
        if self.extra is not None and find_spec(self.extra[1]) is None:
            raise missing_extra(f"--format {self.name}", self.extra[0])

    @abstractmethod
    def write(self, source: ExportSource, folder: Path) -> None:
        """Writes the export's files into `folder`, which is empty; the learner stays as it was."""

    @abstractmethod
    def open(self, folder: Path) -> Runtime:
        """What was written, ready to predict with as many threads as torch has in this process."""

    def open_written(self, folder: Path) -> Runtime:
        """Open the export that `write` has just put into a folder of this process, for the parity
        check.

        Only here may code of the export run: nobody else has written into the folder.
        """
        return self.open(folder)

    def describe(self, runtime: Runtime) -> Mapping[str, Any]:
        """What the exported files themselves say of fields of the manifest; nothing in most
        formats.
        """
        del runtime
        return {}
