"""Measured values of the variations belong to their current defaults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eyevsai.models import measurements
from eyevsai.models.factory import build, get_family
from eyevsai.models.measurements import read_measurements, render_table, update_measurements

MEASURED = {name: each for name, each in read_measurements().items() if each.parameters}


@pytest.mark.parametrize("name", MEASURED)
def test_measurement_is_one_of_the_current_defaults(name: str) -> None:
    family, variation = name.split("/")
    given = {"weights": "none"} if family == "transfer" else {}
    settings = get_family(family).variations[variation].settings(**given)
    learner = build(family, variation, settings, tuple(map(str, range(60))), 0)
    assert learner.num_parameters() == MEASURED[name].parameters
    assert settings.image_size == MEASURED[name].image_size  # type: ignore[attr-defined]


def test_new_values_replace_old_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "measurements.json"
    path.write_text(json.dumps({"machine": "a laptop", "models": {}}))
    monkeypatch.setattr(measurements, "FILE", path)
    update_measurements({"deep_v1/standard": {"parameters": 1234, "image_size": 96}})
    update_measurements({"deep_v1/standard": {"accuracy": 0.6, "minutes": 12.0}})
    (line,) = render_table().splitlines()[2:]
    assert line == "| `deep_v1/standard` | 1,234 |  | 96 |  |  | 0.6000 | 12.0 |"
    measured = read_measurements()["deep_v1/standard"]
    assert measured.describe() == "0.0012 M parameters, valid accuracy 0.6000 after 12 min"
