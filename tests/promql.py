"""Metrics and labels that PromQL expressions use, and those that an exporter has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

SELECTOR = re.compile(r"\b(eyevsai_[a-z0-9_]+)\b(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
AGGREGATION = re.compile(r"\bby\s*\(([^)]*)\)\s*\(")
LABEL_VALUES = re.compile(r"label_values\((\w+), (\w+)\)")
OF_PROMETHEUS = {"instance", "job", "le"}  # labels that Prometheus adds, and those of buckets


def read_rules(path: Path) -> dict[str, dict[str, Any]]:
    """Return the alert rules of a file by name."""
    groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def read_dashboard(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the title and the expression of each query of a Grafana dashboard."""
    dashboard = json.loads(path.read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = LABEL_VALUES.fullmatch(variable["definition"])
            assert found, variable
            yield variable["name"], f'{found[1]}{{{found[2]}=~".+"}}'


def list_uses(expression: str) -> dict[str, set[str]]:
    """Return the metrics of an expression with the labels that it uses.

    These are the labels of its matchers, and of the aggregations (`by`) around it.
    """
    aggregations = [
        (found.end(), _find_end(expression, found.end()), _split(found[1]))
        for found in AGGREGATION.finditer(expression)
    ]
    uses: dict[str, set[str]] = {}
    for found in SELECTOR.finditer(expression):
        labels = uses.setdefault(found[1], set())
        labels.update(MATCHER.findall(found[2] or ""))
        for start, end, names in aggregations:
            if start <= found.start() < end:
                labels.update(names)
    return {name: labels - OF_PROMETHEUS for name, labels in uses.items()}


def list_series(text: str) -> dict[str, set[str] | None]:
    """Return the series of an exposition with their labels; None if a metric has no sample yet."""
    series: dict[str, set[str] | None] = {}
    for family in text_string_to_metric_families(text):
        if not family.samples:
            suffix = "_total" if family.type == "counter" else ""
            series[f"{family.name}{suffix}"] = None
        for sample in family.samples:
            series[sample.name] = (series.get(sample.name) or set()) | set(sample.labels)
    return series


def find_missing(expression: str, series: dict[str, set[str] | None]) -> list[str]:
    """Return what an expression uses and an exporter lacks: metrics, and labels of metrics."""
    missing = []
    for name, labels in list_uses(expression).items():
        if name not in series:
            missing.append(name)
        elif (exported := series[name]) is not None:
            missing += [f"{name}{{{label}}}" for label in sorted(labels - exported)]
    return missing


def _find_end(text: str, start: int) -> int:
    """Return the position of the parenthesis that closes the one before `start`."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if not depth:
            return position
    raise ValueError(f"{text} lacks a closing parenthesis")


def _split(labels: str) -> set[str]:
    return {label.strip() for label in labels.split(",") if label.strip()}
