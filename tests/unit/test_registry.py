from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from eyevsai.errors import UserError
from eyevsai.names import ModelName
from eyevsai.registry.versions import check_name


def test_two_datasets_that_are_written_alike_are_told_apart(workplace: Path) -> None:
    uri = os.environ["MLFLOW_TRACKING_URI"]
    first, second = ModelName("my birds", "deep_v1", "standard"), ModelName("my_birds", "deep_v1", "standard")
    assert first.registered == second.registered == "my_birds-deep_v1-standard"
    check_name(uri, first)
    MlflowClient().create_registered_model(first.registered, tags=vars(first))
    check_name(uri, first)
    with pytest.raises(UserError, match="belongs to the dataset 'my birds'"):
        check_name(uri, second)
