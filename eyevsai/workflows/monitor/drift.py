"""Workflow of `monitor drift`: comparison of folders of images with a version's reference."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.core.errors import UserError, write_error
from eyevsai.core.json import to_json
from eyevsai.core.model_ref import check_trained, parse_model
from eyevsai.data.decode import decode
from eyevsai.evaluation.monitor_settings import DriftSettings
from eyevsai.evaluation.reference import Reference
from eyevsai.evaluation.windows import is_persistent
from eyevsai.serving.classifier import open_model
from eyevsai.store.tags import JOB, SOURCE_RUN_ID
from eyevsai.tracking.run import Run
from eyevsai.workflows.drift_reference import load_reference
from eyevsai.workflows.job_context import job_context, log_settings
from eyevsai.workflows.monitor.windows import (
    UnreadableImage,
    WindowResult,
    compare_windows,
    predict_files,
)
from eyevsai.workflows.trained_model import find_trained_model

if TYPE_CHECKING:
    from eyevsai.reports.drift_page import DriftedImage

log = logging.getLogger("eyevsai")

PAGE, RESULTS = "drift.html", "drift.json"  # artifacts of the run
SAMPLES = 24  # images on the page


@dataclass(frozen=True)
class FolderResult:
    """Windows of one folder."""

    folder: str
    windows: list[WindowResult]
    unreadable: list[UnreadableImage]

    @property
    def is_alarm(self) -> bool:
        """True if the only window, or two of three consecutive ones, drifted."""
        return is_persistent([each.drift.is_alarm for each in self.windows])

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "folder": self.folder,
            "is_alarm": self.is_alarm,
            "windows": to_json(self.windows),
            "unreadable": to_json(self.unreadable),
        }


@dataclass(frozen=True)
class DriftReport:
    """Result of a drift check."""

    model: str  # URI of the version, or `run ID`
    run_id: str  # run with the logged results
    reference: dict[str, Any]
    folders: list[FolderResult]

    @property
    def is_alarm(self) -> bool:
        """True if a folder raises an alarm."""
        return any(each.is_alarm for each in self.folders)

    @property
    def windows(self) -> list[WindowResult]:
        """Windows of all folders, in order."""
        return [window for each in self.folders for window in each.windows]

    def to_json(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {
            "model": self.model,
            "run_id": self.run_id,
            "is_alarm": self.is_alarm,
            "reference": self.reference,
            "folders": to_json(self.folders),
        }


def monitor_drift(
    model: str,
    folders: Mapping[str, Sequence[Path]],
    settings: DriftSettings,
    run_id: str | None = None,
) -> DriftReport:
    """Compare the images of folders with the reference of a version; log and write the results.

    Args:
        model: reference to a version, or the id of a training run.
        folders: image files of each folder, in the order of the stream.
        settings: windows, thresholds and the path of the page.
        run_id: run that `mlflow run` created for this call; None outside of `mlflow run`.

    Raises:
        UserError: the model does not exist or has no valid reference, a folder has too few images,
            or the page cannot be written.
    """
    from eyevsai.serving.model_dir import MODEL_FOLDER

    source = parse_model(model)
    check_trained(source)
    with job_context(settings.state_dir, run_id) as job:
        source_model = find_trained_model(job.tracking_uri, source)
        reference = load_reference(source_model)
        classifier = open_model(source_model.model_dir / MODEL_FOLDER)
        tags = {
            JOB: "monitor",
            SOURCE_RUN_ID: source_model.run_id,
            "model_uri": source_model.title,
            **source_model.dataset_tags(),
        }
        results = []
        for folder, paths in folders.items():
            images = predict_files(classifier, paths, folder)
            windows = compare_windows(reference, images, folder, settings)
            results.append(FolderResult(folder, windows, images.unreadable))
        with job.start_run(f"drift {source_model.name}", tags) as run:
            report = DriftReport(
                source_model.title, run.run_id, _describe_reference(reference), results
            )
            content = _render(report, run)
            _write_page(Path(settings.page), content)
            _log_report(run, report, content, settings)
        return report


def _describe_reference(reference: Reference) -> dict[str, Any]:
    return {
        "split": reference.split,
        "is_provisional": reference.is_provisional,
        "images": reference.images,
        "stored_images": len(reference.labels),
        "accuracy": reference.baseline.accuracy,
        "shares": dict(zip(reference.classes, reference.prior, strict=True)),
    }


def _log_report(run: Run, report: DriftReport, page: str, settings: DriftSettings) -> None:
    """Log metrics by window, results, page and settings on the run of the call."""
    for step, window in enumerate(report.windows):
        run.log_metrics(window.comparison.metrics(), step=step)
    run.set_tags({"alarm": report.is_alarm})
    run.log_dict(RESULTS, to_json(report))
    run.log_text(PAGE, page)
    log_settings(run, settings)
    run.log_params({"folders": ", ".join(each.folder for each in report.folders)})
    drifted = sum(each.drift.is_alarm for each in report.windows)
    run.log_result(
        f"{'Drift alarm' if report.is_alarm else 'No drift alarm'} for {report.model}: {drifted} "
        f"of {len(report.windows)} windows differ from the reference."
    )


def _render(report: DriftReport, run: Run) -> str:
    """Return the HTML page of a report, with images of the window with the strongest evidence."""
    from eyevsai.reports.drift_page import render_drift_page
    from eyevsai.reports.page import PageOrigin

    origin = PageOrigin(datetime.now().astimezone(), run.run_id, run.url)
    windows = report.windows
    drifts = [each.drift for each in windows]
    worst = min(
        range(len(drifts)), key=lambda index: (not drifts[index].is_alarm, drifts[index].log_p)
    )
    samples = _load_samples(windows[worst])
    return render_drift_page(to_json(report), worst, samples, origin=origin)


def _load_samples(window: WindowResult) -> list[DriftedImage]:
    """Return the images of a window that differ most from the reference."""
    from eyevsai.reports.drift_page import DriftedImage

    samples = []
    for path, label, probability in window.most_drifted[:SAMPLES]:
        try:
            samples.append(DriftedImage(decode(path), path.name, label, probability))
        except (UserError, OSError) as error:  # deleted since the prediction
            log.warning("%s is not on the page: %s", path, error)
    return samples


def _write_page(path: Path, content: str) -> None:
    """Write the HTML page; raise UserError if it cannot be written."""
    try:
        path.write_text(content, encoding="utf-8")
    except OSError as error:
        raise write_error(path, error, "Choose another --page.") from error
