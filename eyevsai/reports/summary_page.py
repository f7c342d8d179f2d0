"""Summary of all models as a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from eyevsai.reports.inline_images import encode_png
from eyevsai.reports.model_versions import ranking_key
from eyevsai.reports.readiness import ReadinessReport
from eyevsai.reports.summary_plots import CAPTIONS


def render_summary_page(
    models: Sequence[ReadinessReport],
    summary: Mapping[str, Any],
    plots: Mapping[str, bytes],
    address: str,
) -> str:
    """Return the HTML page of all models: a table to filter and sort, and plots.

    Args:
        models: one report for each registered model.
        summary: result of `summarize`.
        plots: PNG files by a key of `CAPTIONS`.
        address: URL of MLflow's UI, for links to runs and versions.
    """
    environment = Environment(
        loader=PackageLoader("eyevsai.reports"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["uri"] = encode_png
    environment.filters["part"] = lambda text: quote(str(text), safe="")
    page: str = environment.get_template("summary_page.html").render(
        models=sorted(models, key=lambda model: ranking_key(model.version)),
        summary=summary,
        address=address,
        plots=[(caption, plots[name]) for name, caption in CAPTIONS.items()],
    )
    return page
