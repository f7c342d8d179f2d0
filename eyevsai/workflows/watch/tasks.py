"""Steps of a retraining that an executor runs in processes of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyevsai.config import compose
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.formats.settings import ExportSettings
from eyevsai.registry.versions import TESTED
from eyevsai.store.tags import PARENT
from eyevsai.workflows.evaluate.evaluate import evaluate
from eyevsai.workflows.export.export import export
from eyevsai.workflows.job_context import open_store_and_reap
from eyevsai.workflows.shutdown import ending_with_parent
from eyevsai.workflows.trained_model import find_trained_model
from eyevsai.workflows.tune.settings import compose_tune
from eyevsai.workflows.tune.tune import tune

TUNE = "eyevsai.workflows.watch.tasks:tune_model"
EVALUATE = "eyevsai.workflows.watch.tasks:evaluate_versions"


def tune_model(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Tune a model on frozen data, and return the id of the study's run as `study`.

    Args:
        arguments: `trials`, settings of `tune` by name, and `parent`, the id of a run.
    """
    with ending_with_parent():
        tuned = tune(compose_tune(arguments["trials"]), tags={PARENT: arguments["parent"]})
        return {"study": tuned.run_id}


def evaluate_versions(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate the new version and the one in Production on the same images, and export the former.

    Both are evaluated on their test splits, which have the same images, and on `recent`. What is
    evaluated or exported already is skipped.

    Args:
        arguments: plain values by name.
            versions: URIs of the new version and of the one in Production.
            recent: folder of the test split `recent`; None if it is empty.
            class_map: class map of that folder.
            formats: comma-separated formats to export the new version to; may be empty.
            state_dir: folder of run state.
            parent: id of the run that these runs belong to.
    """
    tags = {PARENT: arguments["parent"]}
    with ending_with_parent():
        for uri in arguments["versions"]:
            values = {"model_uri": uri, "state_dir": arguments["state_dir"]}
            if not _is_tested(uri, arguments["state_dir"]):
                evaluate(compose(EvaluateSettings, values | {"corruption_images": 0}), tags=tags)
            if arguments["recent"] is not None:
                recent = {
                    "data": arguments["recent"],
                    "class_map": arguments["class_map"],
                    "corruption_images": 0,
                }
                evaluate(compose(EvaluateSettings, values | recent), tags=tags)
        if arguments["formats"]:
            new = {"model_uri": arguments["versions"][0], "state_dir": arguments["state_dir"]}
            export(compose(ExportSettings, new | {"format": arguments["formats"]}), tags=tags)
    return {}


def _is_tested(uri: str, state_dir: str) -> bool:
    """Return True if a version was evaluated on its own test split."""
    version = find_trained_model(open_store_and_reap(Path(state_dir)), uri).version
    return version is not None and TESTED in version.tags
