"""Workflow of `export`: export of a trained model for other runtimes, with a parity check."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from eyevsai.core.errors import JobError, UserError, first_line, write_error
from eyevsai.core.model_ref import EXPORTS
from eyevsai.core.paths import expand
from eyevsai.formats.base import ExportSource
from eyevsai.formats.export import export as export_one
from eyevsai.formats.factory import get_format, is_all, parse_formats
from eyevsai.formats.parity import ParityResult, ReferenceData
from eyevsai.formats.settings import ExportSettings
from eyevsai.models.learner import Learner
from eyevsai.registry.artifacts import has_files, size_of
from eyevsai.store.tags import JOB, SOURCE_RUN_ID
from eyevsai.tracking.finished_runs import reopen_run
from eyevsai.tracking.run import Run
from eyevsai.workflows.export.log_export import log_export
from eyevsai.workflows.export.prune import prune
from eyevsai.workflows.export.reference_data import load_reference_data, make_source
from eyevsai.workflows.job_context import job_context, log_settings
from eyevsai.workflows.startup import check_inputs
from eyevsai.workflows.trained_model import TrainedModel, find_trained_model

log = logging.getLogger("eyevsai")

# disk space of an export: copies of the weights during quantization, and bytes for other files
COPIES, EXTRA_BYTES = (4, 16_000_000)


@dataclass(frozen=True)
class Exported:
    """Export of one format: logged at `uri`, or rejected because the parity check failed."""

    format: str
    uri: str
    parity: ParityResult
    size_bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values, with the metrics of the parity check."""
        values = {
            "format": self.format,
            "uri": self.uri,
            "size_bytes": self.size_bytes,
            "seconds": self.seconds,
        }
        return values | {"metrics": self.parity.metrics}


def export(
    settings: ExportSettings,
    run_id: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> list[Exported]:
    """Export a trained model in one or more formats.

    Exports that pass the parity check are logged on the model's training run; if that was deleted,
    on the run of this call. The result of each export is recorded in tags of the model's version.
    With `prune`, the model is pruned first, and the new version is exported.

    Args:
        settings: the model and the formats.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.
        tags: additional tags of the run of this call.

    Returns:
        One result per format.

    Raises:
        UserError: the model, its data, a format or the output folder is unusable.
        JobError: an export failed, after all others have been logged.
    """
    check_inputs({"output": settings.output})
    with job_context(settings.state_dir, run_id) as job:
        tracking_uri = job.tracking_uri
        _check_disk_space(0)
        source_model = find_trained_model(tracking_uri, settings.source)
        if settings.prune:
            _find_formats(settings.format, source_model.load())  # before the training
            source_model = find_trained_model(tracking_uri, prune(source_model, settings, job))
        plan = prepare(source_model, settings, _find_output(settings, source_model))
        call_tags = {
            JOB: "export",
            SOURCE_RUN_ID: source_model.run_id,
            "model_uri": source_model.title,
            **source_model.dataset_tags(),
            **tags,
        }
        title = f"export {source_model.name}"
        with job.start_run(title, call_tags) as call:
            log_settings(call, settings)
            return plan.export_all(call)


@dataclass(frozen=True)
class ExportPlan:
    """Model and formats of an export, reference data of the parity check, and the output folder."""

    source_model: TrainedModel
    names: list[str]
    source: ExportSource
    reference: ReferenceData
    state_dir: Path
    output: Path | None  # for copies of the exports; None for no copies

    def export_all(self, call: Run) -> list[Exported]:
        """Export the model in all formats; `call` is the run of this call.

        Raises:
            JobError: an export failed; raised after all formats, with all failures.
        """
        exported = [self.export(name, call) for name in self.names]
        if failures := [failure for each in exported for failure in each.parity.failures]:
            raise JobError("\n".join(failures))
        return exported

    def export(self, name: str, call: Run) -> Exported:
        """Export the model in one format, and log the export and the result of its parity check.

        A failure is part of the result: this does not raise for an export that cannot be written or
        differs from the model.

        Args:
            name: name of the format.
            call: run of this call, on which the export is logged if the training run was deleted.

        Raises:
            JobError: the disk is full, or a file cannot be written.
        """
        source_model, began = self.source_model, time.monotonic()
        target_run_id = source_model.run_id if source_model.run else call.run_id
        log.info(
            "Exporting %s as %s, format %d of %d",
            source_model.title,
            name,
            self.names.index(name) + 1,
            len(self.names),
        )
        with tempfile.TemporaryDirectory(
            prefix="eyevsai-export-", ignore_cleanup_errors=True
        ) as temporary:
            folder = Path(temporary) / name
            parity = self._write(name, folder)
            size_bytes = size_of(folder)
            with self._run_for_export(call) as run:
                log_export(name, source_model, folder, parity, run)
            if not parity.failures and self.output is not None:
                _copy(folder, self.output / name)
        uri = f"runs:/{target_run_id}/{EXPORTS}/{name}"
        failures = [
            f"The export of {source_model.title} as {name} is rejected. {failure}"
            for failure in parity.failures
        ]
        if failures and has_files(source_model.tracking_uri, target_run_id, f"{EXPORTS}/{name}"):
            failures[-1] += f" An earlier export, which passed, is kept: {uri}"
        return Exported(
            name, uri, ParityResult(parity.metrics, failures), size_bytes, time.monotonic() - began
        )

    def _run_for_export(self, call: Run) -> AbstractContextManager[Run]:
        """Return the reopened training run, or `call` if that was deleted."""
        if self.source_model.run is None:
            return nullcontext(call)
        return reopen_run(self.source_model.tracking_uri, self.source_model.run_id, self.state_dir)

    def _write(self, name: str, folder: Path) -> ParityResult:
        """Write an export and return its parity result, with a failure if it cannot be written."""
        try:
            return export_one(name, self.source, self.reference, folder, self.source_model.title)
        except OSError as error:
            raise write_error(folder, error, "The export was not logged.", JobError) from error
        except MemoryError:
            raise
        except Exception as error:
            # exporters raise errors of many classes, and other formats may still succeed
            log.debug("Writing %s failed", name, exc_info=True)
            class_name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            return ParityResult({}, [f"It cannot be written: {class_name}{error}"])


def prepare(
    source_model: TrainedModel, settings: ExportSettings, output: Path | None
) -> ExportPlan:
    """Load and check everything that an export needs, and create the folder `output`.

    Args:
        source_model: the model.
        settings: formats, folders and numbers of images.
        output: folder for copies of the exports; None for no copies.

    Raises:
        UserError: a format is unavailable, the disk is too full, the model's dataset changed, its
            test split is empty, or `output` is not writable or contains such an export.
    """
    if output is not None:
        _check_no_exports(output, parse_formats(settings.format))
    learner = source_model.load()
    names = _find_formats(settings.format, learner)
    weights = source_model.model_dir.rglob("*.safetensors")
    _check_disk_space(sum(path.stat().st_size for path in weights))
    dataset = source_model.load_dataset(data_dir=settings.data_dir, cache_dir=settings.cache_dir)
    data = dataset.open(learner.preprocessing)
    source = make_source(source_model, learner, data, settings)
    reference = load_reference_data(source_model, learner, data, settings.parity_images)
    if output is not None:
        _make_output(output)
    return ExportPlan(source_model, names, source, reference, expand(settings.state_dir), output)


def _copy(folder: Path, target: Path) -> None:
    try:
        shutil.copytree(folder, target)
    except OSError as error:
        # the error of copytree is a list with one error per file
        reason = error if error.strerror else OSError(first_line(error))
        raise write_error(target, reason, "The export is logged on the run.", JobError) from error


def _find_formats(text: str, learner: Learner) -> list[str]:
    """Return the formats in a comma-separated list.

    For `all`, these are the formats that are available for the model on this machine.

    Raises:
        UserError: a format is unknown, or is named and unavailable.
    """
    names = []
    for name in parse_formats(text):
        try:
            get_format(name).check(learner)
        except UserError as error:
            if not is_all(text):
                raise
            log.info("Left out: %s", error)
        else:
            names.append(name)
    return names


def _find_output(settings: ExportSettings, source_model: TrainedModel) -> Path | None:
    """Return the folder for copies of a model's exports; None without `--output`."""
    if settings.output is None:
        return None
    return expand(settings.output).absolute() / source_model.folder_name


def _check_no_exports(output: Path, names: list[str]) -> None:
    """Raise UserError if the folder `output` has an export in one of the formats."""
    if existing := [name for name in names if (output / name).exists()]:
        raise UserError(
            f"{output / existing[0]} exists already. Move it, or choose another --output."
        )


def _make_output(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(output, error, "Choose another --output.") from error


def _check_disk_space(weights_bytes: int) -> None:
    """Raise UserError if the temporary folder has too little space for an export.

    The errors of export libraries on a full disk are misleading.
    """
    folder = Path(tempfile.gettempdir())
    needed, free = EXTRA_BYTES + COPIES * weights_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"An export needs up to {needed / 1e6:.0f} MB in {folder}, which has "
            f"{free / 1e6:.0f} MB free. Free disk space, or set TMPDIR to another folder."
        )
