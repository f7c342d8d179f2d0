"""Settings of reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.call_settings import Experiment
from eyevsai.core.settings import STATE_DIR, Doc, Parameter, Range, Settings, StateDir


@dataclass(frozen=True)
class CheckPage(Settings):
    """Output of `data check`."""

    page: Annotated[str, Doc("Path of the HTML page.")] = "data_check.html"


@dataclass(frozen=True)
class ComparisonPage(CheckPage):
    """Output of `compare`."""

    page: str = "comparison.html"


@dataclass(frozen=True)
class DescribeSettings(Settings):
    """Model to describe."""

    num_classes: Annotated[int, Range(2, 10**6), Doc("Number of classes of the model.")] = 67


@dataclass(frozen=True)
class ReportSettings(Settings):
    """Models to report, and the output folder."""

    PANEL: ClassVar[str] = "Report"

    models: Annotated[
        str | None,
        Parameter(),
        Doc("Families or family/variation, comma-separated, as in `eyevsai list`; all by default."),
    ] = None
    datasets: Annotated[
        str | None, Parameter(), Doc("Datasets, comma-separated; all with a model by default.")
    ] = None
    output: Annotated[str, Doc("Output folder.")] = "reports"
    state_dir: StateDir = STATE_DIR
    experiment: Experiment = None
