"""Metrics, durations, sizes and dates in words with units, for people."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from eyevsai.evaluation.corruptions import CORRUPTIONS
from eyevsai.evaluation.metric_names import IMPORTANCE
from eyevsai.evaluation.significance import Interval

CORRUPTION_LABELS = {
    "blur": "Gaussian blur",
    "noise": "Gaussian noise",
    "jpeg": "JPEG compression",
    "brightness": "Brightness",
}


def format_percent(share: float) -> str:
    """Return a share, such as 0.932, in percent with one decimal: `93.2 %`."""
    return f"{100 * share:.1f} %"


def format_points(share: float) -> str:
    """Return a difference of two shares in percentage points: `4.1 points`."""
    return f"{100 * share:.1f} points"


def format_number(value: float) -> str:
    """Return a number with four significant digits."""
    return f"{value:.4g}"


def format_interval(interval: Interval) -> str:
    """Return a confidence interval of a share: `95 % interval 91.0 to 95.0 %`."""
    return f"95 % interval {100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units: `1 h 5 min`, `3 min 20 s` or `12 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def format_bytes(size_bytes: int) -> str:
    """Return a size in megabytes with one decimal, or in kilobytes below 0.1 MB."""
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e5 else f"{size_bytes / 1e3:.1f} kB"


def format_date(date: datetime) -> str:
    """Return date, time and time zone: `2026-03-03 12:00 UTC`."""
    return f"{date:%Y-%m-%d %H:%M %Z}".strip()


def _with_unit(unit: str, digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f} {unit}"


@dataclass(frozen=True)
class MetricText:
    """Name of a metric in words, and the format of its values."""

    label: str
    format: Callable[[float], str] = format_percent
    lower_is_better: bool = False


METRICS = {
    "accuracy": MetricText("Accuracy"),
    "accuracy_low": MetricText("Accuracy, lower end of the 95 % interval"),
    "accuracy_high": MetricText("Accuracy, upper end of the 95 % interval"),
    "top5_accuracy": MetricText("Top-5 accuracy"),
    "balanced_accuracy": MetricText("Balanced accuracy (mean recall of the classes)"),
    "macro_f1": MetricText("Macro F1 (mean of the classes)"),
    "weighted_f1": MetricText("Weighted F1 (classes weighted by images)"),
    "average_precision": MetricText("Average precision (mean of the classes)"),
    "roc_auc": MetricText("Area under the ROC curve (mean of the classes)", format_number),
    "loss": MetricText("Loss (mean negative log likelihood)", _with_unit("nats", 3), True),
    "uncalibrated_loss": MetricText("Loss before temperature scaling", _with_unit("nats", 3), True),
    "brier": MetricText("Brier score (0 is best, 2 is worst)", format_number, True),
    "ece": MetricText("Calibration error (ECE)", lower_is_better=True),
    "uncalibrated_ece": MetricText(
        "Calibration error (ECE) before temperature scaling", lower_is_better=True
    ),
    "threshold": MetricText("Confidence threshold", _with_unit("", 4)),
    "coverage": MetricText("Coverage (share of images above the threshold)"),
    "answered_accuracy": MetricText("Accuracy above the threshold"),
    "latency_ms": MetricText("Latency of one image", _with_unit("ms", 1), True),
    "images_per_s": MetricText("Throughput", _with_unit("images/s", 0)),
    "peak_memory_mib": MetricText("Peak memory", _with_unit("MiB", 0), True),
}


def describe_metric(name: str) -> MetricText:
    """Return the words and the format of a metric, given without the prefix of its split.

    An unknown metric keeps its name, and four significant digits.
    """
    if name in METRICS:
        return METRICS[name]
    corruption, _, severity = name.rpartition("_")
    if corruption in CORRUPTIONS:
        return MetricText(f"Accuracy, {label_corruption(corruption)} of severity {severity}")
    if name.startswith(IMPORTANCE):
        group = name.removeprefix(IMPORTANCE)
        return MetricText(f"Drop in accuracy when {group} features are shuffled", format_points)
    return MetricText(name, format_number)


def format_metric(name: str, value: float) -> str:
    """Return the value of a metric with its unit; NaN and infinity as `undefined`."""
    return describe_metric(name).format(value).strip() if math.isfinite(value) else "undefined"


def label_corruption(name: str) -> str:
    """Return a kind of corruption in words."""
    return CORRUPTION_LABELS.get(name, name)
