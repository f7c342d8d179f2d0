"""docs/requirements.md and the markers of the tests name the same requirements."""

from __future__ import annotations

import re

from tests.conftest import ROOT


def test_each_requirement_has_a_test_and_each_marker_a_row() -> None:
    rows = set(re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "requirements.md").read_text(), re.M))
    tests = "\n".join(path.read_text() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    assert set(re.findall(r"mark\.requirement\((\d+)\)", tests)) == rows
