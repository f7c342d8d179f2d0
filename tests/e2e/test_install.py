"""`eyevsai install`, in a checkout of its own: the extras that it knows are those of its
pyproject.toml.
"""

from __future__ import annotations

import sys
import zipfile
from functools import partial
from pathlib import Path

import pytest

from eyevsai.core import extras
from eyevsai.models.factory import FAMILIES
from tests.conftest import ROOT, Eyevsai

PYPROJECT = """
[project]
name = "eyevsai"
version = "0.1.0"
[project.optional-dependencies]
stones = ["pebble>=1,<2", "nowhere; sys_platform == 'none'"]
here = ["typer"]
gone = ["no-such-project-of-anyone"]
"""


@pytest.fixture
def install(eyevsai: Eyevsai, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Eyevsai:
    """`eyevsai install` of a checkout whose pip knows one wheel and installs into a folder of its
    own.
    """
    assert extras.CHECKOUT == ROOT / "pyproject.toml"
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    monkeypatch.setattr(extras, "CHECKOUT", tmp_path / "pyproject.toml")
    wheel = "pebble-1.2-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / wheel, "w") as archive:
        archive.writestr("pebble.py", "")
        archive.writestr(
            "pebble-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: pebble\nVersion: 1.2\n"
        )
        archive.writestr(
            "pebble-1.2.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("pebble-1.2.dist-info/RECORD", "")
    target = tmp_path / "packages"
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_TARGET": str(target),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(target)
    return partial(eyevsai, "install")


def test_an_extra_is_printed_and_then_installed(install: Eyevsai) -> None:
    said = install("stones").stdout.strip()
    assert said == f"{sys.executable} -m pip install 'pebble>=1,<2'"  # what applies to this system
    states = {
        line.split()[0]: " ".join(line.split()[1:3]) for line in install().stdout.splitlines()
    }
    assert states == {"stones": "not installed", "here": "installed typer", "gone": "not installed"}
    said = install("stones", "--run").stdout
    assert said.startswith("Installing pebble>=1,<2 into ")
    assert "Installed 1 package in 0:" in said
    assert "Installed: stones." in said
    assert install("stones", "--run", "here").stdout.splitlines() == [
        "stones is installed.",
        "here is installed.",
    ]


def test_what_cannot_be_installed_or_is_not_known_is_said(install: Eyevsai) -> None:
    failed = install("gone", "--run", code=1).stderr
    assert "gone could not be installed: pip exited with code 1" in failed
    assert "Missing: no-such-project-of-anyone" in failed
    assert "Did you mean 'stones'?" in install("stone", code=2).stderr
    assert "Did you mean 'deep_v2'?" in install("deepv2", code=2).stderr


def test_families_need_no_extra(install: Eyevsai) -> None:
    lines = install(*FAMILIES).stdout.splitlines()
    assert [line.partition(".")[0] for line in lines] == [
        f"{family} needs no extra" for family in FAMILIES
    ]
    assert lines[list(FAMILIES).index("transfer")].endswith(
        "without a download: eyevsai install offline --run"
    )
