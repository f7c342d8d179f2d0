"""HTML pages of reports: one template for all, self-contained, with every value escaped."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eyevsai.core.version import VERSION
from eyevsai.reports import units
from eyevsai.reports.inline_images import encode_figure, encode_png, encode_thumbnail

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE_PX = 650  # width of a picture from which it takes a row of its own
# a page loads nothing, whatever a class or a file is called
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


@dataclass(frozen=True)
class PageOrigin:
    """Date and run of a page, for its header.

    `run_url` is the page of the run in MLflow's UI; without one, the name is shown as text.
    """

    date: datetime | None = None
    run_name: str = ""
    run_url: str | None = None


NO_ORIGIN = PageOrigin()


def render_page(template: str, title: str, kind: str, origin: PageOrigin, **values: Any) -> str:
    """Return a page without references to other files.

    Args:
        template: name of a template that extends `base.html`.
        title: heading, such as the name of the model.
        kind: kind of the report, shown above the heading.
        origin: date and run of the page.
        values: variables of the template.
    """
    page: str = (
        _environment()
        .get_template(template)
        .render(title=title, kind=kind, origin=origin, **values)
    )
    return page


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("eyevsai.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": units.format_percent,
        "points": units.format_points,
        "number": units.format_number,
        "duration": units.format_duration,
        "bytes": units.format_bytes,
        "date": units.format_date,
        "corruption": units.label_corruption,
        "label": lambda name: units.describe_metric(name).label,
        "metric": lambda value, name: units.format_metric(name, value),
        "figure": encode_figure,
        "png": encode_png,
        "thumbnail": encode_thumbnail,
    }
    environment.tests |= {"wide": _is_wide, "web_address": _is_web_address}
    environment.globals |= {
        "version": VERSION,
        "policy": POLICY,
        "library": _read("vendor/simple.min.css"),
        "library_licence": _read("vendor/simple.LICENSE"),
        "style": _read("style.css"),
        "page_script": _read("page.js"),
    }
    return environment


def _read(name: str) -> Markup:
    """Return a file of this package as part of the markup: it is not escaped."""
    return Markup((files("eyevsai.reports") / "templates" / name).read_text(encoding="utf-8"))


def _is_wide(picture: Figure | bytes) -> bool:
    """Return True if a figure or a PNG file takes a row of its own."""
    if isinstance(picture, bytes):
        width_px = int.from_bytes(picture[16:20], "big")  # of the header, which is always first
    else:
        width_px = round(picture.get_figwidth() * picture.dpi)
    return width_px > WIDE_PX


def _is_web_address(url: str | None) -> bool:
    """Return True if a URL opens a page: a link to another scheme could run code."""
    return url is not None and url.startswith(("http://", "https://"))
