"""report: all models of a store in tables, pictures, a page, and the file that a game's backend
reads.
"""

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
from eyevsai.models.factory import select_models
from eyevsai.reports.settings import ReportSettings
from eyevsai.store.backend import open_store, raising_store_errors
from eyevsai.store.tags import JOB
from eyevsai.tracking.run import Run
from eyevsai.workflows.job_context import job_context, log_settings
from eyevsai.workflows.shutdown import handling_signals

if TYPE_CHECKING:
    from eyevsai.reports.model_versions import ModelVersion
    from eyevsai.reports.readiness import ReadinessReport

REPORTS = "reports"  # the folder of a run's artifacts that holds them
UI = "http://127.0.0.1:5000"  # where `eyevsai ui` answers over a store that no server has
GAME = "game_backend_report"
CSV, SUMMARY, PAGE = "all_models_report", "summary_report", "all_models"


@dataclass(frozen=True)
class Report:
    """What was written."""

    files: dict[str, Path]  # by what each is
    models: int
    versions: int
    ready: int  # models that may be deployed
    run_id: str | None  # where it is logged, if it is


def report(settings: ReportSettings, run_id: str | None = None) -> Report:
    """Reports the models of the store; logs the files too on the run that `mlflow run` made for
    this call, if one did.

    Raises:
        UserError: nothing was trained yet, or something else that a person must mend.
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
    """Writes all files into `settings.output`, or none; logs them as artifacts of `run`, if there
    is one.

    Raises:
        UserError: a model or a dataset that is not known, nothing to report, or nowhere to write.
        JobError: the store failed.
    """
    from eyevsai.workflows.report.collect import read_model_versions, report_models

    output = Path(settings.output).expanduser()
    with raising_store_errors(tracking_uri, "Reading the registry"):
        everything = read_model_versions(tracking_uri)
        versions = _select(everything, settings)
        models = report_models(tracking_uri, versions, everything)
    now = datetime.now().astimezone()
    with atomic_output_files(output, now) as (building, date):
        contents = _draw(versions, models, tracking_uri, now.isoformat(timespec="seconds"))
        files = _write(building, contents, date)
        if run is not None:
            run.log_artifacts(REPORTS, building)
        _move(files, output)
    ready = sum(model.is_ready for model in models)
    there = {name: output / path.name for name, path in files.items()}
    return Report(there, len(models), len(versions), ready, run.run_id if run else None)


def _select(versions: list[ModelVersion], settings: ReportSettings) -> list[ModelVersion]:
    """The versions of the models and datasets that were named.

    Raises:
        UserError: one is not known, or there are none.
    """
    chosen = None if settings.models is None else select_models(settings.models)
    datasets = None
    if settings.datasets is not None and versions:
        known = sorted({each.dataset for each in versions})
        datasets = choose_listed("dataset with a trained model", settings.datasets, known)
    found = [
        each
        for each in versions
        if (chosen is None or (each.family, each.variation) in chosen)
        and (datasets is None or each.dataset in datasets)
    ]
    if found:
        return found
    flags = f" --model {chosen[0][0]} --variation {chosen[0][1]}" if chosen else ""
    flags += f" --dataset {datasets[0]}" if datasets else ""
    what = (
        "No model is registered in this store yet"
        if not versions
        else "No model that was asked for is registered"
    )
    raise UserError(f"{what}, so there is nothing to report. Train one first: eyevsai train{flags}")


def _draw(
    versions: list[ModelVersion], models: list[ReadinessReport], tracking_uri: str, generated: str
) -> dict[str, bytes]:
    """What each file of a report holds, by its name without a date; the one that a backend reads is
    the last.
    """
    from eyevsai.reports.game_backend import build_game_report
    from eyevsai.reports.inline_images import draw_png
    from eyevsai.reports.summary import list_versions, summarize, write_csv
    from eyevsai.reports.summary_page import render_summary_page
    from eyevsai.reports.summary_plots import plot_summary

    summary = summarize(versions, models, generated)
    plots = {
        name: draw_png(figure)
        for name, figure in plot_summary([each.version for each in models]).items()
    }
    address = tracking_uri.rstrip("/") if tracking_uri.startswith("http") else UI
    texts = {
        f"{CSV}.csv": write_csv(list_versions(versions, models)),
        f"{SUMMARY}.json": _to_json(summary),
        f"{PAGE}.html": render_summary_page(models, summary, plots, address),
        f"{GAME}.json": _to_json(build_game_report(models, generated)),
    }
    contents = {f"{name}.png": content for name, content in plots.items()}
    return contents | {name: text.encode() for name, text in texts.items()}


def _write(folder: Path, contents: Mapping[str, bytes], date: str) -> dict[str, Path]:
    """Writes files into a folder, in this order, and returns them by what each is."""
    files = dict[str, Path]()
    try:
        for name, content in contents.items():
            kind, _, suffix = name.rpartition(".")
            files[kind] = folder / f"{kind}_{date}.{suffix}"
            files[kind].write_bytes(content)
    except OSError as error:
        raise write_error(folder.parent, error, "Nothing was kept.", JobError) from error
    return files


def _to_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _move(files: dict[str, Path], output: Path) -> None:
    """Moves files to where they belong, and where none of their names is taken: all of them, or
    none.
    """
    moved = list[Path]()
    try:
        for path in files.values():
            moved.append(path.replace(output / path.name))
    except OSError as error:
        for path in moved:
            path.unlink(missing_ok=True)
        raise write_error(output, error, "Choose another --output.") from error
