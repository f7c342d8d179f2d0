"""Ranges of dependencies: constraints/ pins both ends, which `make test-all` installs."""

from __future__ import annotations

import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.ranges import RESOLUTIONS, ROOT, list_requirements, read_pins, read_project


def version_of(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


@pytest.mark.parametrize("end", RESOLUTIONS)
def test_both_ends_pin_each_requirement_within_its_range(end: str) -> None:
    pins = read_pins(end)
    for requirement in list_requirements():
        version = version_of(pins[canonicalize_name(requirement.name)])
        assert requirement.specifier.contains(version), requirement


def test_lowest_release_that_a_range_allows_is_the_one_that_is_tested() -> None:
    pins = read_pins("lowest")
    for requirement in list_requirements():
        (lowest,) = [each for each in requirement.specifier if each.operator in (">=", "==")]
        assert version_of(pins[canonicalize_name(requirement.name)]) == Version(lowest.version)


def test_broken_release_of_mlflow_is_outside_of_the_range() -> None:
    (mlflow,) = [each for each in list_requirements() if each.name == "mlflow"]
    assert not mlflow.specifier.contains("3.18.0")
    assert mlflow.specifier.contains("3.17.2")
    assert mlflow.specifier.contains("3.10.0")


def test_one_mlflow_is_in_the_environments_of_project_server_and_developers() -> None:
    tool = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["eyevsai"]
    extras = read_project()["optional-dependencies"]
    (pin,) = [Requirement(text) for text in tool["conda-pins"] if text.startswith("mlflow==")]
    for extra in ("server", "dev"):
        (other,) = [Requirement(text) for text in extras[extra] if text.startswith("mlflow")]
        assert other.specifier == pin.specifier
    (mlflow,) = [each for each in list_requirements() if each.name == "mlflow"]
    assert mlflow.specifier.contains(version_of(pin))
    conda = (ROOT / "conda.yaml").read_text(encoding="utf-8")
    assert [line.strip() for line in conda.splitlines() if '"mlflow' in line] == [f'- "{pin}"']
