"""Gauges in Prometheus' text format, for the textfile collector of node_exporter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.errors import write_error
from eyevsai.core.paths import expand


@dataclass(frozen=True)
class Gauge:
    """One value of a gauge, with its labels."""

    name: str
    labels: Mapping[str, str]
    value: float


def format_gauges(gauges: Iterable[Gauge], help_texts: Mapping[str, str]) -> str:
    """Return gauges in the text format 0.0.4: those of one name follow each other.

    Args:
        gauges: the values.
        help_texts: description of each gauge by its name.
    """
    by_name: dict[str, list[Gauge]] = {}
    for gauge in gauges:
        by_name.setdefault(gauge.name, []).append(gauge)
    lines = []
    for name, members in by_name.items():
        lines += [f"# HELP {name} {help_texts[name]}", f"# TYPE {name} gauge"]
        for gauge in members:
            labels = ",".join(f'{key}="{_escape(text)}"' for key, text in gauge.labels.items())
            lines.append(f"{name}{{{labels}}} {gauge.value!r}")
    return "".join(f"{line}\n" for line in lines)


def write_gauges(path: str, gauges: Iterable[Gauge], help_texts: Mapping[str, str]) -> None:
    """Replace a file with gauges atomically: a scrape never reads half of it.

    Args:
        path: file, whose name must end with `.prom` for node_exporter.
        gauges: the values.
        help_texts: description of each gauge by its name.

    Raises:
        UserError: the file cannot be written.
    """
    file = Path(expand(path))
    try:
        write_atomically(file, format_gauges(gauges, help_texts))
    except OSError as error:
        raise write_error(file, error, "Choose another --metrics-file.") from error


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
