"""What a person may say about an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.evaluation.settings import SubjectSettings
from eyevsai.formats.formats import ALL, FORMATS, names_of
from eyevsai.settings import Doc, Parameter, Range


@dataclass(frozen=True)
class ExportSettings(SubjectSettings):
    """In which formats a model leaves, and how closely each is looked at."""

    PANEL: ClassVar[str] = "Export"

    format: Annotated[
        str, Parameter(), Doc(f"Formats with commas: {', '.join(FORMATS)}; or {ALL}: those that the model has.")
    ] = "onnx"
    output: Annotated[
        str | None, Doc("Folder for copies of the exports; they lie with the run's artifacts in any case.")
    ] = None
    parity_images: Annotated[
        int, Range(1, 1_000_000), Doc("Images of the test split, drawn by seed, that an export is held against.")
    ] = 200
    calibration_images: Annotated[
        int,
        Range(1, 1_000_000),
        Doc("onnx-int8: images of the train split, drawn by seed, whose numbers it is fitted to."),
    ] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        names_of(self.format)
