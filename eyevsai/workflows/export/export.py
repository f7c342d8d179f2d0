"""export: a trained model as files for other runtimes, each held against the model before it
leaves.
"""

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
from eyevsai.core.hashing import hash_file
from eyevsai.data.dataset import Data
from eyevsai.formats.base import ExportSource, Pixels
from eyevsai.formats.export import export as export_one
from eyevsai.formats.factory import EXPORTS, PASSED, REFUSED, get_format, is_all, parse_formats
from eyevsai.formats.manifest import MANIFEST
from eyevsai.formats.parity import ParityResult, ReferenceData
from eyevsai.formats.settings import ExportSettings
from eyevsai.models.learner import Learner
from eyevsai.models.serialization import read_config
from eyevsai.registry.artifacts import has_files, size_of
from eyevsai.registry.versions import EXPORT, EXPORT_WEIGHTS_SHA256, MANIFEST_SHA256, SIZE, tagging
from eyevsai.store.tags import JOB, SOURCE_RUN_ID
from eyevsai.tracking.finished_runs import reopen_run
from eyevsai.tracking.run import Run
from eyevsai.workflows.export.prune import prune
from eyevsai.workflows.export.reference_data import draw_indices, load_reference_data, squares
from eyevsai.workflows.job_context import job_context, log_settings
from eyevsai.workflows.trained_model import TrainedModel, find_trained_model

log = logging.getLogger("eyevsai")

# of the weights, while whole numbers are fitted to them; and for all else
COPIES, ROOM_BYTES = (4, 16_000_000)


@dataclass(frozen=True)
class Exported:
    """The export of one format: kept at `uri`, or refused because parity has failures."""

    format: str
    uri: str
    parity: ParityResult
    size_bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        about = {
            "format": self.format,
            "uri": self.uri,
            "size_bytes": self.size_bytes,
            "seconds": self.seconds,
        }
        return about | {"metrics": self.parity.metrics}


def export(
    settings: ExportSettings,
    run_id: str | None = None,
    tags: Mapping[str, str] = MappingProxyType({}),
) -> list[Exported]:
    """Exports a trained model, logs what passed on the run that trained it, and says on its version
    how all fared.

    `run_id` is the run that `mlflow run` made for this call, if one did; the call's run gets `tags`
    besides its own.

    Raises:
        UserError: something a person must mend.
        JobError: an export does not say what the model says; those that do are kept.
    """
    with job_context(settings.state_dir, run_id) as job:
        tracking_uri = job.tracking_uri
        _check_room(0)
        source_model = find_trained_model(tracking_uri, settings.run, settings.model_uri)
        if settings.prune:
            _find_formats(settings.format, source_model.load())  # before epochs are spent
            source_model = find_trained_model(
                tracking_uri, None, prune(source_model, settings, job)
            )
        plan = prepare(source_model, settings, _find_output(settings, source_model))
        about = {
            JOB: "export",
            SOURCE_RUN_ID: source_model.run_id,
            "model_uri": source_model.title,
            **tags,
        }
        title = f"export {source_model.name}"
        with job.start_run(title, about) as call:
            log_settings(call, settings)
            return plan.export_all(call)


@dataclass(frozen=True)
class ExportPlan:
    """A model that is about to leave in some formats, what they are held against, and where copies
    of them go.
    """

    source_model: TrainedModel
    names: list[str]
    source: ExportSource
    reference: ReferenceData
    state_dir: Path
    output: Path | None

    def export_all(self, call: Run) -> list[Exported]:
        """Keep the exports that agree with the model on the run that trained it; on the run of the
        call if it is gone.

        Raises:
            JobError: the others' failures, in the end.
        """
        done = [self.export(name, call) for name in self.names]
        if failures := [failure for each in done for failure in each.parity.failures]:
            raise JobError("\n".join(failures))
        return done

    def export(self, name: str, call: Run) -> Exported:
        """Writes one export and holds it against the model; logs it and what was found."""
        source_model, began = self.source_model, time.monotonic()
        keeper = source_model.run_id if source_model.run else call.run_id
        log.info(
            "Exporting %s as %s, format %d of %d",
            source_model.title,
            name,
            self.names.index(name) + 1,
            len(self.names),
        )
        with tempfile.TemporaryDirectory(prefix="eyevsai-export-") as place:
            folder = Path(place) / name
            parity = self._write(name, folder)
            size_bytes = size_of(folder)
            with self._reopened(call) as run:
                _log(name, source_model, folder, parity, run)
            if not parity.failures and self.output is not None:
                _copy(folder, self.output / name)
        uri = f"runs:/{keeper}/{EXPORTS}/{name}"
        failures = [
            f"{source_model.title} as {name} is refused. {failure}" for failure in parity.failures
        ]
        if failures and has_files(source_model.tracking_uri, keeper, f"{EXPORTS}/{name}"):
            failures[-1] += f" An earlier one, which passed, stays: {uri}"
        return Exported(
            name, uri, ParityResult(parity.metrics, failures), size_bytes, time.monotonic() - began
        )

    def _reopened(self, call: Run) -> AbstractContextManager[Run]:
        if self.source_model.run is None:
            return nullcontext(call)
        return reopen_run(self.source_model.tracking_uri, self.source_model.run_id, self.state_dir)

    def _write(self, name: str, folder: Path) -> ParityResult:
        try:
            return export_one(name, self.source, self.reference, folder, self.source_model.title)
        except OSError as error:
            raise write_error(folder, error, "Nothing was kept.", JobError) from error
        except MemoryError:
            raise
        except Exception as error:
            # each exporter has errors of its own; the other formats may do without it
            log.debug("Writing %s failed", name, exc_info=True)
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            return ParityResult({}, [f"It cannot be written: {kind}{error}"])


def prepare(
    source_model: TrainedModel, settings: ExportSettings, output: Path | None
) -> ExportPlan:
    """All that an export needs, found and checked before anything is written but the folder
    `output`.

    Raises:
        UserError: a format that cannot be had, no room, or the model's data are not what they were.
    """
    learner = source_model.load()
    names = _find_formats(settings.format, learner)
    _check_room(sum(path.stat().st_size for path in source_model.package.rglob("*.safetensors")))
    dataset = source_model.load_dataset(data_dir=settings.data_dir, cache_dir=settings.cache_dir)
    data = dataset.open(learner.preprocessing)
    source = _make_source(source_model, learner, data, settings)
    reference = load_reference_data(source_model, learner, data, settings.parity_images)
    if output is not None:
        _make_output(output, names)
    return ExportPlan(
        source_model, names, source, reference, Path(settings.state_dir).expanduser(), output
    )


def _log(
    name: str, source_model: TrainedModel, folder: Path, parity: ParityResult, run: Run
) -> None:
    """Logs an export that passed on a run, and on the model's version how it fared.

    The one that a version is served by goes into the version, too.
    """
    from eyevsai.serving.model_dir import EXPORT_FOLDER, SERVED

    told = {f"{EXPORT}.{name}.{key}": f"{value:.6g}" for key, value in parity.metrics.items()}
    told |= {
        f"{EXPORT}.{name}": REFUSED if parity.failures else PASSED,
        f"{EXPORT}.{name}.{EXPORT_WEIGHTS_SHA256}": source_model.weights,
    }
    if not parity.failures:
        told[f"{EXPORT}.{name}.{MANIFEST_SHA256}"] = hash_file(folder / MANIFEST)
        run.log_artifacts(f"{EXPORTS}/{name}", folder)
    model_id = source_model.model_id
    if not parity.failures and name == SERVED and model_id is not None:
        package = source_model.package
        told[SIZE] = str(size_of(package) - size_of(package / EXPORT_FOLDER) + size_of(folder))
        run.log_model_files(model_id, folder, EXPORT_FOLDER, last=MANIFEST)
    if source_model.version is not None:
        run.enqueue("version_tags", **tagging(source_model.version, told))


def _copy(folder: Path, target: Path) -> None:
    try:
        shutil.copytree(folder, target)
    except OSError as error:
        # copytree's own error is a list of one error for each file
        reason = error if error.strerror else OSError(first_line(error))
        raise write_error(target, reason, "The export is logged with the run.", JobError) from error


def _find_formats(text: str, learner: Learner) -> list[str]:
    """The formats that were asked for; of `all` those that the model has and this machine can
    write.

    Raises:
        UserError: one that was named cannot be had.
    """
    chosen = []
    for name in parse_formats(text):
        try:
            get_format(name).check(learner)
        except UserError as error:
            if not is_all(text):
                raise
            log.info("Left out: %s", error)
        else:
            chosen.append(name)
    return chosen


def _find_output(settings: ExportSettings, source_model: TrainedModel) -> Path | None:
    if settings.output is None:
        return None
    return Path(settings.output).expanduser() / source_model.folder_name


def _make_output(output: Path, names: list[str]) -> None:
    if there := [name for name in names if (output / name).exists()]:
        raise UserError(
            f"{output / there[0]} is there already. Name another --output, or move it away."
        )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(output, error, "Choose another --output.") from error


def _check_room(weights_bytes: int) -> None:
    """Raises UserError when exports have no room where they are built: libraries say of a full disk
    what they like.
    """
    folder = Path(tempfile.gettempdir())
    needed, free = ROOM_BYTES + COPIES * weights_bytes, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"An export is built in {folder} and takes up to {needed / 1e6:.0f} MB; "
            f"{free / 1e6:.0f} MB are left there. Free some, or name another folder in TMPDIR."
        )


def _make_source(
    source_model: TrainedModel, learner: Learner, data: Data, settings: ExportSettings
) -> ExportSource:
    from eyevsai.serving.model_dir import MODEL_FOLDER

    card = read_config(source_model.package / MODEL_FOLDER)

    def calibration() -> Pixels:
        """Return the images that quantization is calibrated with."""
        places = draw_indices(
            len(data.train), settings.calibration_images, source_model.seed, "calibration"
        )
        return squares(data.train, places, learner)

    return ExportSource(
        learner,
        card["sha256"],
        source_model.version.threshold if source_model.version else None,
        calibration,
    )
