"""Fixtures of the robustness tests: folders to run in, and the copy of the project from
`tests/e2e`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.conftest import mlflow_run, project
from tests.robustness.runs import Sandbox, make_sandbox

__all__ = ["mlflow_run", "project", "sandbox"]


@pytest.fixture
def sandbox(
    request: pytest.FixtureRequest, tmp_path: Path, template_store: Path, stripes: Path
) -> Sandbox:
    """Return a folder in which runs are started by command, or by `mlflow run` if the parameter is
    True.
    """
    return make_sandbox(
        tmp_path / "sandbox", template_store, stripes, by_mlflow=getattr(request, "param", False)
    )
