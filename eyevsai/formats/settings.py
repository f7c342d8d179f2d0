"""Settings of `export`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Doc, Parameter, Range, require_option
from eyevsai.evaluation.settings import SourceModelSettings
from eyevsai.formats.factory import ALL, FORMATS, parse_formats


@dataclass(frozen=True)
class ExportSettings(SourceModelSettings):
    """Formats of an export, its output, and the images of the parity check."""

    PANEL: ClassVar[str] = "Export"

    format: Annotated[
        str,
        Parameter(),
        Doc(
            f"Comma-separated formats: {', '.join(FORMATS)}; or {ALL}: all available for the model."
        ),
    ] = "onnx"
    output: Annotated[
        str | None,
        Doc("Folder for copies of the exports, which are also logged as artifacts of the run."),
    ] = None
    package: Annotated[
        str | None,
        Doc(
            "Name of a folder for the best models of each dataset, by test_accuracy or else "
            "best_valid_accuracy; they are exported instead of one model."
        ),
    ] = None
    per_dataset: Annotated[int, Range(1, 1000), Doc("--package: number of models per dataset.")] = 1
    prune: Annotated[
        float,
        Range(0.0, 0.9),
        Doc(
            "Share of each layer's channels to remove before the export. The pruned model is "
            "trained for --prune-epochs and registered as a new version (Fang et al. 2023)."
        ),
    ] = 0.0
    prune_epochs: Annotated[int, Range(1, 10_000), Doc("--prune: number of epochs to train.")] = 10
    parity_images: Annotated[
        int,
        Range(1, 1_000_000),
        Doc("Number of test images, drawn by seed, on which exports and model are compared."),
    ] = 200
    calibration_images: Annotated[
        int,
        Range(1, 1_000_000),
        Doc("onnx-int8: number of train images, drawn by seed, to calibrate the quantization."),
    ] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_formats(self.format)
        if self.package is not None and not re.fullmatch(
            r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", self.package
        ):
            raise UserError(
                f"--package {self.package!r} is not a valid folder name. Use letters, digits, "
                "_, - and dots; the first character cannot be a dot."
            )

        require_option(self, "prune_epochs", "prune")
        require_option(self, "per_dataset", "package")

    def check_source(self) -> None:
        """Raise UserError unless the settings select one model or a package, and not both."""
        if self.package is None:
            super().check_source()
        elif self.prune:
            raise UserError("--prune creates a new version of one model: omit --package.")
        elif self.run is not None or self.model_uri is not None:
            raise UserError(
                "--package selects the best models itself: omit --run and --model-uri, or omit "
                "--package."
            )
