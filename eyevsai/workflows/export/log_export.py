"""Logging of an export on its run, and of its parity result on the model's version."""

from __future__ import annotations

from pathlib import Path

from eyevsai.core.hashing import hash_file
from eyevsai.core.model_ref import EXPORTS
from eyevsai.formats.factory import PASSED, REFUSED
from eyevsai.formats.manifest import MANIFEST
from eyevsai.formats.parity import ParityResult
from eyevsai.registry.artifacts import size_of
from eyevsai.registry.versions import (
    EXPORT,
    EXPORT_WEIGHTS_SHA256,
    MANIFEST_SHA256,
    SIZE,
    exports_of,
    tagging,
)
from eyevsai.tracking.run import Run
from eyevsai.workflows.trained_model import TrainedModel


def log_export(
    name: str, source_model: TrainedModel, folder: Path, parity: ParityResult, run: Run
) -> None:
    """Log an export that passed the parity check, and tag the model's version with its result.

    An export in the format `SERVED` is also added to the model directory of the logged model. A
    failure is tagged only if the export was compared with the model, and never in place of an
    export of the same weights that passed: that one is kept.

    Args:
        name: name of the format.
        source_model: the exported model.
        folder: folder of the export.
        parity: result of the parity check.
        run: run to log the export on.
    """
    from eyevsai.serving.model_dir import EXPORT_FOLDER, SERVED, model_size

    if parity.failures and (not parity.metrics or _has_passed(name, source_model)):
        return
    tags = {f"{EXPORT}.{name}.{key}": f"{value:.6g}" for key, value in parity.metrics.items()}
    tags |= {
        f"{EXPORT}.{name}": REFUSED if parity.failures else PASSED,
        f"{EXPORT}.{name}.{EXPORT_WEIGHTS_SHA256}": source_model.weights,
    }
    if not parity.failures:
        tags[f"{EXPORT}.{name}.{MANIFEST_SHA256}"] = hash_file(folder / MANIFEST)
        run.log_artifacts(f"{EXPORTS}/{name}", folder)
    model_id = source_model.model_id
    if not parity.failures and name == SERVED and model_id is not None:
        package = source_model.model_dir
        tags[SIZE] = str(model_size(package) - size_of(package / EXPORT_FOLDER) + size_of(folder))
        run.log_model_files(model_id, folder, EXPORT_FOLDER, last=MANIFEST)
    if source_model.version is not None:
        run.enqueue("version_tags", **tagging(source_model.version, tags))


def _has_passed(name: str, source_model: TrainedModel) -> bool:
    """Return True if an export of the version passed in this format, with its current weights."""
    if source_model.version is None:
        return False
    tags, weights = source_model.version.tags, source_model.weights
    exported = tags.get(f"{EXPORT}.{name}.{EXPORT_WEIGHTS_SHA256}", weights)
    return exports_of(tags).get(name) == PASSED and exported == weights
