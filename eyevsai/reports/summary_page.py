"""Summary of all models as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from eyevsai.reports.model_versions import ModelVersion, ranking_key
from eyevsai.reports.page import NO_ORIGIN, PageOrigin, render_page
from eyevsai.reports.readiness import ReadinessReport
from eyevsai.reports.summary_plots import CAPTIONS
from eyevsai.store.ui_links import run_page, version_page


@dataclass(frozen=True)
class DatasetPanel:
    """Models of one dataset, the most accurate first."""

    dataset: str
    models: tuple[ReadinessReport, ...]

    @property
    def num_ready(self) -> int:
        """Number of models that are ready for deployment."""
        return sum(model.is_ready for model in self.models)


def render_summary_page(
    models: Sequence[ReadinessReport],
    summary: Mapping[str, Any],
    plots: Mapping[str, bytes],
    address: str,
    *,
    origin: PageOrigin = NO_ORIGIN,
) -> str:
    """Return the HTML page of all models: a panel to filter and sort for each dataset, and plots.

    Args:
        models: one report for each registered model.
        summary: result of `summarize`.
        plots: PNG files by a key of `CAPTIONS`.
        address: URL of MLflow's UI, for links to runs and versions.
        origin: run with the page as an artifact; the date is that of the summary.
    """
    ranked = sorted(models, key=lambda model: ranking_key(model.version))
    panels = [
        DatasetPanel(name, tuple(model for model in ranked if model.version.dataset == name))
        for name in sorted({model.version.dataset for model in models})
    ]
    return render_page(
        "summary_page.html",
        "All models",
        "Models",
        replace(origin, date=datetime.fromisoformat(summary["report_generated"])),
        panels=panels,
        num_models=len(models),
        summary=summary,
        address=address,
        run_url=lambda version: address + _path_of_run(version),
        version_url=lambda version: address + version_page(version.key, version.number),
        plots=[(caption, plots[name]) for name, caption in CAPTIONS.items()],
    )


def _path_of_run(version: ModelVersion) -> str:
    """Return the path of the page of a version's run; ids are quoted, whatever they contain."""
    return run_page(quote(version.experiment_id, safe=""), quote(version.run_id, safe=""))
