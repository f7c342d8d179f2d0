"""What the faults share: places to run in, and the journeys' copy of the project."""

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
    """Where runs are started as a person starts them; parameter True: by `mlflow run`."""
    return make_sandbox(
        tmp_path / "sandbox", template_store, stripes, by_mlflow=getattr(request, "param", False)
    )
