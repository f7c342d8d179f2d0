"""What a person may say about a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.settings import STATE_DIR, Doc, Env, Parameter, Range, Settings


@dataclass(frozen=True)
class CheckPage(Settings):
    """Where `data check` shows what it found."""

    page: Annotated[str, Doc("Where the HTML page is written.")] = "data_check.html"


@dataclass(frozen=True)
class ComparisonPage(CheckPage):
    """Where `compare` shows what it found."""

    page: str = "comparison.html"


@dataclass(frozen=True)
class DescribeSettings(Settings):
    """Of what a model is described."""

    num_classes: Annotated[int, Range(2, 10**6), Doc("Classes that the model tells apart.")] = 67


@dataclass(frozen=True)
class ReportSettings(Settings):
    """Which models are reported, and where to."""

    PANEL: ClassVar[str] = "Report"

    models: Annotated[
        str | None,
        Parameter(),
        Doc("Families or family/variation, with commas, as in `eyevsai list`; all by default."),
    ] = None
    datasets: Annotated[
        str | None, Parameter(), Doc("Datasets, with commas; all that models know by default.")
    ] = None
    output: Annotated[str, Doc("Folder that the files are written into.")] = "reports"
    state_dir: Annotated[
        str, Env("EYEVSAI_STATE"), Doc("Folder for what the store could not be told yet.")
    ] = STATE_DIR
