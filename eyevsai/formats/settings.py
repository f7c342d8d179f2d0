"""What a person may say about an export."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Doc, Parameter, Range
from eyevsai.evaluation.settings import SourceModelSettings
from eyevsai.formats.factory import ALL, FORMATS, parse_formats


@dataclass(frozen=True)
class ExportSettings(SourceModelSettings):
    """In which formats a model leaves, and how closely each is looked at."""

    PANEL: ClassVar[str] = "Export"

    format: Annotated[
        str,
        Parameter(),
        Doc(f"Formats with commas: {', '.join(FORMATS)}; or {ALL}: those that the model has."),
    ] = "onnx"
    output: Annotated[
        str | None,
        Doc("Folder for copies of the exports; they lie with the run's artifacts in any case."),
    ] = None
    package: Annotated[
        str | None,
        Doc(
            "Instead of one model: the best of each dataset, by test/accuracy or else "
            "valid/best_accuracy, in a folder of this name."
        ),
    ] = None
    per_dataset: Annotated[
        int, Range(1, 1000), Doc("--package: how many models of each dataset it holds.")
    ] = 1
    prune: Annotated[
        float,
        Range(0.0, 0.9),
        Doc(
            "First take this share of each layer's channels away, train for --prune-epochs, and "
            "register that as a new version, which is exported then (Fang et al. 2023)."
        ),
    ] = 0.0
    prune_epochs: Annotated[
        int, Range(1, 10_000), Doc("--prune: passes over the training images.")
    ] = 10
    parity_images: Annotated[
        int,
        Range(1, 1_000_000),
        Doc("Images of the test split, drawn by seed, that an export is held against."),
    ] = 200
    calibration_images: Annotated[
        int,
        Range(1, 1_000_000),
        Doc("onnx-int8: images of the train split, drawn by seed, whose numbers it is fitted to."),
    ] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_formats(self.format)
        if self.package is not None and not re.fullmatch(
            r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", self.package
        ):
            raise UserError(
                f"--package {self.package!r} is no name for a folder: it has letters, digits, "
                "_, - and dots."
            )

    def check_source(self) -> None:
        """Raises UserError unless one model, or a package, is named."""
        if self.package is None:
            super().check_source()
        elif self.prune:
            raise UserError("--prune makes a new version of one model: leave --package out.")
        elif self.run is not None or self.model_uri is not None:
            raise UserError(
                "--package finds the best models itself: leave --run and --model-uri out, or "
                "--package."
            )
