"""Wait policy of OpenMP's threads."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from eyevsai.core.openmp import SPIN_COUNT, SPIN_ITERATIONS, WAIT_SETTINGS, limit_spinning
from tests.conftest import ROOT


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in WAIT_SETTINGS:
        monkeypatch.setenv(name, "")  # so that it is restored afterwards
        monkeypatch.delenv(name)
    return monkeypatch


def test_the_spin_count_is_set_without_settings_of_the_user(
    no_settings: pytest.MonkeyPatch,
) -> None:
    no_settings.setenv("OMP_NUM_THREADS", "2")  # concerns the number of threads, not their waiting
    limit_spinning()
    assert os.environ[SPIN_COUNT] == str(SPIN_ITERATIONS)


@pytest.mark.parametrize("name", WAIT_SETTINGS)
def test_settings_of_the_user_win(no_settings: pytest.MonkeyPatch, name: str) -> None:
    no_settings.setenv(name, "7")
    limit_spinning()
    assert {each: os.environ.get(each) for each in WAIT_SETTINGS} == {
        each: "7" if each == name else None for each in WAIT_SETTINGS
    }


LOADED = """
import os
{before}
def is_loaded():
    return any("gomp" in line for line in open("/proc/self/maps"))
assert not is_loaded(), "OpenMP is loaded too early"
import {module}
assert os.environ["GOMP_SPINCOUNT"] == "{count}"
import torch
assert is_loaded()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/maps")
@pytest.mark.parametrize(
    ("before", "module"),
    [
        ("", "eyevsai"),
        # how MLflow's scoring server comes to the loader of a version
        pytest.param(
            "import mlflow.pyfunc.scoring_server", "eyevsai.serving.pyfunc", marks=pytest.mark.slow
        ),
    ],
)
def test_the_spin_count_is_set_before_openmp_is_loaded(
    no_settings: pytest.MonkeyPatch, before: str, module: str
) -> None:
    code = LOADED.format(before=before, module=module, count=SPIN_ITERATIONS)
    if module == "eyevsai.serving.pyfunc":
        code = code.replace("import torch\n", "")
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
