"""What the faults share: places to run in, and the journeys' copy of the project."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.runs import Place, make_place
from tests.journeys.conftest import mlflow_run, project

__all__ = ["mlflow_run", "place", "project"]


@pytest.fixture
def place(
    request: pytest.FixtureRequest, tmp_path: Path, template_store: Path, stripes: Path
) -> Place:
    """Where runs are started as a person starts them; parameter True: by `mlflow run`."""
    return make_place(
        tmp_path / "place", template_store, stripes, by_mlflow=getattr(request, "param", False)
    )
