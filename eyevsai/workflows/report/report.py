"""Workflow of `report`: tables, plots, an HTML page and a game backend's file about all models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.core.atomic_dir import atomic_output_files
from eyevsai.core.errors import JobError, UserError, write_error
from eyevsai.core.names import choose_listed
from eyevsai.core.paths import expand
from eyevsai.models.factory import select_models
from eyevsai.reports.settings import ReportSettings
from eyevsai.store.backend import open_store, raising_store_errors
from eyevsai.store.tags import JOB
from eyevsai.store.ui_links import make_link
from eyevsai.tracking.run import Run
from eyevsai.workflows.job_context import job_context, log_settings
from eyevsai.workflows.shutdown import handling_signals

if TYPE_CHECKING:
    from eyevsai.reports.model_versions import ModelVersion
    from eyevsai.reports.readiness import ReadinessReport

REPORTS = "reports"  # artifact folder of the files
GAME = "game_backend_report"
CSV, SUMMARY, PAGE = "all_models_report", "summary_report", "all_models"


@dataclass(frozen=True)
class Report:
    """Written report: its files, and the numbers of models in it."""

    files: dict[str, Path]  # by name without date and suffix
    models: int
    versions: int
    ready: int  # models that are ready for deployment
    run_id: str | None  # run with the files as artifacts; None if they were not logged


def report(settings: ReportSettings, run_id: str | None = None) -> Report:
    """Write reports about the models of the store.

    The files are also logged on the run that `mlflow run` created for this call, `run_id`; outside
    of `mlflow run` it is None, and no run is created.

    Raises:
        UserError: a name is unknown, no such model is registered, or the store or the output folder
            is unusable.
        JobError: the store failed, or a file cannot be written.
    """
    if run_id is None:
        with handling_signals():
            return write_reports(settings, open_store())
    with (
        job_context(settings.state_dir, run_id) as job,
        job.start_run("report", {JOB: "report"}) as call,
    ):
        log_settings(call, settings)
        return write_reports(settings, job.tracking_uri, call)


def write_reports(settings: ReportSettings, tracking_uri: str, run: Run | None = None) -> Report:
    """Write all files of a report to `settings.output`, or none of them if one fails.

    Args:
        settings: models to report, and the output folder.
        tracking_uri: URI of the tracking store.
        run: run to log the files on; None to log nothing.

    Raises:
        UserError: a model or a dataset is unknown, no such model is registered, or the output
            folder is not writable.
        JobError: the store failed, or a file cannot be written.
    """
    from eyevsai.workflows.report.collect import read_model_versions, report_models

    output = expand(settings.output).absolute()
    with raising_store_errors(tracking_uri, "Reading the registry"):
        all_versions = read_model_versions(tracking_uri)
        versions = _select(all_versions, settings)
        models = report_models(tracking_uri, versions, all_versions)
    now = datetime.now().astimezone()
    with atomic_output_files(output, now) as (building, date):
        contents = _render(versions, models, tracking_uri, now, run)
        files = _write(building, contents, date)
        if run is not None:
            run.log_artifacts(REPORTS, building)
        _move(files, output)
    ready = sum(model.is_ready for model in models)
    moved_files = {name: output / path.name for name, path in files.items()}
    return Report(moved_files, len(models), len(versions), ready, run.run_id if run else None)


def _select(versions: list[ModelVersion], settings: ReportSettings) -> list[ModelVersion]:
    """Return the versions of the selected models and datasets; all of them by default.

    Raises:
        UserError: a model or dataset is unknown, or there is no such version.
    """
    models = None if settings.models is None else select_models(settings.models)
    datasets = None
    if settings.datasets is not None and versions:
        all_datasets = sorted({each.dataset for each in versions})
        datasets = choose_listed("dataset with a trained model", settings.datasets, all_datasets)
    selected = [
        each
        for each in versions
        if (models is None or (each.family, each.variation) in models)
        and (datasets is None or each.dataset in datasets)
    ]
    if selected:
        return selected
    flags = f" --model {models[0][0]} --variation {models[0][1]}" if models else ""
    flags += f" --dataset {datasets[0]}" if datasets else ""
    reason = (
        "the store has no registered models"
        if not versions
        else "none of the selected models is registered"
    )
    raise UserError(f"There is nothing to report: {reason}. Train one with: eyevsai train{flags}")


def _render(
    versions: list[ModelVersion],
    models: list[ReadinessReport],
    tracking_uri: str,
    now: datetime,
    run: Run | None,
) -> dict[str, bytes]:
    """Return the contents of all files by file name without date.

    The file for the game backend is the last one: once it is written, the others exist.

    Args:
        versions: versions for the table.
        models: readiness reports of the models.
        tracking_uri: URI of the store, for links to its UI.
        now: time of the report.
        run: run that the files are logged on; None if there is none.
    """
    from eyevsai.reports.game_backend import build_game_report
    from eyevsai.reports.inline_images import draw_png
    from eyevsai.reports.page import PageOrigin
    from eyevsai.reports.summary import list_versions, summarize, write_csv
    from eyevsai.reports.summary_page import render_summary_page
    from eyevsai.reports.summary_plots import plot_summary

    generated = now.isoformat(timespec="seconds")
    origin = PageOrigin(now, run.run_id, run.url) if run else PageOrigin(now)
    summary = summarize(versions, models, generated)
    plots = {
        name: draw_png(figure)
        for name, figure in plot_summary([each.version for each in models]).items()
    }
    address = make_link(tracking_uri, "")
    texts = {
        f"{CSV}.csv": write_csv(list_versions(versions, models)),
        f"{SUMMARY}.json": _to_json(summary),
        f"{PAGE}.html": render_summary_page(models, summary, plots, address, origin=origin),
        f"{GAME}.json": _to_json(build_game_report(models, generated)),
    }
    contents = {f"{name}.png": content for name, content in plots.items()}
    return contents | {name: text.encode() for name, text in texts.items()}


def _write(folder: Path, contents: Mapping[str, bytes], date: str) -> dict[str, Path]:
    """Write files to a folder, in order, and return their paths by name without date and suffix.

    Raises:
        JobError: a file cannot be written.
    """
    files = dict[str, Path]()
    try:
        for name, content in contents.items():
            stem, _, suffix = name.rpartition(".")
            files[stem] = folder / f"{stem}_{date}.{suffix}"
            files[stem].write_bytes(content)
    except OSError as error:
        raise write_error(folder.parent, error, "No file was kept.", JobError) from error
    return files


def _to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _move(files: dict[str, Path], output: Path) -> None:
    """Move all files to the output folder, or none of them.

    The folder must not have files with these names.

    Raises:
        UserError: the folder is not writable.
    """
    moved = list[Path]()
    try:
        for path in files.values():
            moved.append(path.replace(output / path.name))
    except OSError as error:
        for path in moved:
            path.unlink(missing_ok=True)
        raise write_error(output, error, "Choose another --output.") from error
