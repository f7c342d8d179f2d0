"""Names of tags that several parts of the package read."""

from __future__ import annotations

PARENT = "mlflow.parentRunId"  # the tag by which MLflow shows a run under another one


# the tag of a study, and how many make one that train takes
COMPLETE_TRIALS, MIN_COMPLETE = ("complete_trials", 10)


# the tag with the hash of a class list: of versions, registered models and studies
CLASSES_SHA256 = "classes_sha256"
