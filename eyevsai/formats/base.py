"""Base class of export formats, and the source that they export."""

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
    """Opened export. Several threads may use it at once."""

    def predict_proba(self, images: Pixels) -> Probabilities:
        """Return float32 probabilities (N,C) of uint8 images (N,H,W,3) of any size."""


@dataclass(frozen=True)
class ExportSource:
    """Model to export, its threshold, and train images for the calibration of a quantization."""

    learner: Learner
    weights_sha256: str  # of the weights file that the learner was loaded from
    threshold: float | None
    calibration: Callable[[], Pixels]  # N,s,s,3 where s is the short side after resizing

    @cached_property
    def program(self) -> ExportedProgram:
        """The learner's graph, traced by torch.export on first use and shared by all formats."""
        return trace(self.learner)

    @cached_property
    def onnx(self) -> ModelProto:
        """The graph in ONNX, converted on first use and shared by the formats based on it."""
        return convert(self.program)


class Format(ABC):
    """Export format: writes an export into a folder and opens it.

    An exported graph takes raw images, N,H,W,3 uint8 of any size, and resizes, normalizes and
    classifies them.
    """

    name: ClassVar[str]
    example: ClassVar[str | None] = None  # the format whose example it ships; None: its own
    networks_only: ClassVar[bool] = False
    # the extra of pyproject.toml that opening needs, and a module that it installs
    extra: ClassVar[tuple[str, str] | None] = None
    can_hold_code: ClassVar[bool] = False  # a file may contain code that runs when it is opened
    # maximum difference of a probability, from the same resized pixels
    tolerance: ClassVar[float] = 1e-5
    # for formats with reduced precision: the allowed loss of accuracy in percentage points, and the
    # required share of images with the model's class
    max_accuracy_loss: ClassVar[float | None] = None
    min_agreement: ClassVar[float] = 0.0

    def check(self, learner: Learner) -> None:
        """Raise UserError if this format cannot export the learner, or not on this machine."""
        if self.networks_only and not isinstance(learner, NetworkModel):
            raise UserError(
                f"{learner.family} has no network, which --format {self.name} requires: use "
                "--format onnx."
            )
        self.check_installed()

    def check_installed(self) -> None:
        """Raise UserError if the extra that opens this format is not installed."""
        if self.extra is not None and find_spec(self.extra[1]) is None:
            raise missing_extra(f"--format {self.name}", self.extra[0])

    @abstractmethod
    def write(self, source: ExportSource, folder: Path) -> None:
        """Write the export's files into the empty `folder`; the learner must stay unchanged."""

    @abstractmethod
    def open(self, folder: Path) -> Runtime:
        """Open a written export, to predict with as many threads as torch uses in this process."""

    def open_written(self, folder: Path) -> Runtime:
        """Open the export that this process has just written, for the parity check.

        Only this method may execute code of the export, because no other process has written to
        the folder.
        """
        return self.open(folder)

    def requirements(self, folder: Path) -> Mapping[str, Any]:
        """Return the manifest fields that name the runtimes of an export; {} for most formats."""
        del folder
        return {}

    def describe(self, runtime: Runtime) -> Mapping[str, Any]:
        """Return the manifest fields that the exported files contain, too; {} for most formats."""
        del runtime
        return {}
