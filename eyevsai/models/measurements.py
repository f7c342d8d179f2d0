"""Measured size, speed and accuracy of each variation at its defaults, from measurements.json.

`python -m benchmarks networks` and `python -m benchmarks accuracy` write the file. `eyevsai list`,
docs/families.md and benchmarks/RESULTS.md show it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("measurements.json")


@dataclass(frozen=True)
class Measurement:
    """Measured values of a variation at its defaults; None for what was not measured.

    Attributes:
        parameters: learned values, for 60 classes.
        mflops: 10^6 floating-point operations for one image.
        image_size: side of the images in pixels.
        train_per_s: images per second in training steps.
        predict_per_s: images per second in prediction.
        accuracy: valid accuracy on the 60-class union of the benchmarks.
        minutes: duration of that training, the whole command.
    """

    parameters: int | None = None
    mflops: float | None = None
    image_size: int | None = None
    train_per_s: float | None = None
    predict_per_s: float | None = None
    accuracy: float | None = None
    minutes: float | None = None

    def describe(self) -> str:
        """Return the values as one line; empty if nothing was measured."""
        parts = []
        if self.parameters is not None:
            parts.append(f"{self.parameters / 1e6:.2g} M parameters")
        if self.mflops is not None:
            parts.append(f"{self.mflops:,.0f} MFLOPs at {self.image_size} px")
        if self.train_per_s is not None:
            parts.append(f"{self.train_per_s:,.0f} images/s in training")
        if self.predict_per_s is not None:
            parts.append(f"{self.predict_per_s:,.0f} images/s in prediction")
        if self.accuracy is not None:
            parts.append(f"valid accuracy {self.accuracy:.4f} after {self.minutes:.0f} min")
        return ", ".join(parts)


def read_measurements() -> dict[str, Measurement]:
    """Return the measurements by family/variation."""
    content: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: Measurement(**values) for name, values in content["models"].items()}


def read_machine() -> str:
    """Return the description of the machine of the measurements."""
    return str(json.loads(FILE.read_text(encoding="utf-8"))["machine"])


def update_measurements(new: Mapping[str, Mapping[str, Any]]) -> None:
    """Replace values of variations in the file: by name of the field, by family/variation."""
    measurements = read_measurements()
    for name, values in new.items():
        measurements[name] = replace(measurements.get(name, Measurement()), **values)
    content = {
        "machine": read_machine(),
        "models": {
            name: {key: value for key, value in asdict(each).items() if value is not None}
            for name, each in sorted(measurements.items())
        },
    }
    FILE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")


def render_table() -> str:
    """Return a Markdown table of the measurements, without a heading."""
    heads = (
        "variation",
        "parameters",
        "MFLOPs",
        "pixels",
        "training, images/s",
        "prediction, images/s",
        "valid accuracy",
        "minutes",
    )
    formats = ("{:,}", "{:,.1f}", "{}", "{:,.0f}", "{:,.0f}", "{:.4f}", "{:.1f}")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, measurement in read_measurements().items():
        values = (getattr(measurement, field.name) for field in fields(Measurement))
        cells = [
            "" if value is None else text.format(value)
            for text, value in zip(formats, values, strict=True)
        ]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
