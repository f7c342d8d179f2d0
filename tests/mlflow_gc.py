"""`mlflow gc` in this process: it keeps the store that it opened first, and changes the tracking
URI.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import mlflow
from mlflow import MlflowClient
from mlflow.cli import gc
from mlflow.server import handlers


def collect_garbage(run_ids: Sequence[str] = ()) -> None:
    """Do what `mlflow gc` does for the store of MLFLOW_TRACKING_URI; by default to all runs that
    were deleted.
    """
    uri = MlflowClient().tracking_uri
    environment = dict(os.environ)
    chosen = ["--run-ids", ",".join(run_ids)] if run_ids else []
    forget_stores()
    try:
        gc.main(["--backend-store-uri", uri, *chosen], standalone_mode=False)
    finally:
        forget_stores()
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
        os.environ.clear()
        os.environ.update(environment)


def forget_stores() -> None:
    handlers._tracking_store = handlers._model_registry_store = None
