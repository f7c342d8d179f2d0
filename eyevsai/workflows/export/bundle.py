"""Workflow of `export --package`: bundle with exports of the best models of each dataset."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eyevsai.core.atomic_dir import atomic_output_dir
from eyevsai.core.errors import JobError, UserError, write_error
from eyevsai.core.model_ref import run_ref
from eyevsai.core.paths import expand
from eyevsai.core.version import VERSION
from eyevsai.formats.settings import ExportSettings
from eyevsai.store.tags import JOB
from eyevsai.tracking.search import RunInfo, find_trained
from eyevsai.workflows.export.export import Exported, ExportPlan, prepare
from eyevsai.workflows.job_context import job_context, log_settings
from eyevsai.workflows.startup import check_bundle
from eyevsai.workflows.trained_model import find_trained_model

log = logging.getLogger("eyevsai")

INFO, README, PACKAGES = "deployment_info.json", "README.md", "packages"


@dataclass(frozen=True)
class Bundled:
    """Written bundle of exported models."""

    folder: Path
    run_id: str  # run with the bundle as artifacts
    models: list[dict[str, Any]]  # as in `deployment_info.json`


def bundle(settings: ExportSettings, run_id: str | None = None) -> Bundled:
    """Export the best models of each dataset into one folder, with descriptions of the models.

    The folder appears under its final name only if all exports passed the parity check. It is also
    logged as artifacts of the run of this call; each export is logged on the run of its model.

    `run_id` is the run that `mlflow run` created for this call; None outside of `mlflow run`.

    Raises:
        UserError: the folder exists, the store has no models, or no model of a dataset can be
            exported.
        JobError: an export failed the parity check, or a file cannot be written.
    """
    with job_context(settings.state_dir, run_id) as job:
        tracking_uri, name = job.tracking_uri, str(settings.package)
        target = expand(settings.output or ".").absolute() / name
        check_bundle(target)
        with atomic_output_dir(target, "--output") as building:
            plans = list(_plan_exports(tracking_uri, settings, building))
            tags, title = {JOB: "export", "package": name}, f"package {name}"
            with job.start_run(title, tags) as call:
                log_settings(call, settings)
                models = [_describe(run, each, each.export_all(call)) for run, each in plans]
                _finish(building, target, models)
                call.log_artifacts(f"{PACKAGES}/{name}", target)
        return Bundled(target, call.run_id, models)


def _plan_exports(
    tracking_uri: str, settings: ExportSettings, building: Path
) -> Iterator[tuple[RunInfo, ExportPlan]]:
    """Yield the best runs of each dataset whose models can be exported, with their export plans.

    Datasets are in alphabetical order, runs of a dataset by descending accuracy. Logs a warning for
    each better model that cannot be exported.

    Args:
        tracking_uri: URI of the store.
        settings: number of models per dataset, and settings of the exports.
        building: folder for the exports.

    Raises:
        UserError: the store has no trained model, or no model of a dataset can be exported.
    """
    runs_by_dataset: dict[str, list[RunInfo]] = defaultdict(list)
    for run in find_trained(tracking_uri):
        if "dataset" in run.tags:
            runs_by_dataset[run.tags["dataset"]].append(run)
    if not runs_by_dataset:
        raise UserError(
            "There is nothing to package: the store has no trained model. Train one first."
        )
    for _, runs in sorted(runs_by_dataset.items()):
        num_missing, errors = settings.per_dataset, list[UserError]()
        for run in sorted(runs, key=lambda run: run.rank_key):
            if not num_missing:
                break
            try:
                source_model = find_trained_model(tracking_uri, run_ref(run.run_id))
                yield run, prepare(source_model, settings, building / source_model.folder_name)
            except UserError as error:
                log.warning("Left out: %s", error)
                errors.append(error)
            else:
                num_missing -= 1
        if num_missing == settings.per_dataset:
            raise errors[-1]


def _finish(building: Path, target: Path, models: list[dict[str, Any]]) -> None:
    """Write the descriptions of the models, and rename the folder to its final name."""
    try:
        _write_info(building, target.name, models)
        building.chmod(0o755)
        building.rename(target)
    except OSError as error:
        raise write_error(
            target, error, "The exports are logged on the runs of their models.", JobError
        ) from error


def _describe(run: RunInfo, plan: ExportPlan, exported: list[Exported]) -> dict[str, Any]:
    """Return the entry of a model in `deployment_info.json`."""
    metric, value = run.score
    learner, folder = plan.source.learner, plan.source_model.folder_name
    return {
        "dataset": run.tags["dataset"],
        "model": learner.family,
        "variation": learner.variation,
        "model_uri": plan.source_model.title,
        "run_id": run.run_id,
        "metric": metric,
        "accuracy": value,
        "classes": list(learner.classes),
        "input": "N,H,W,3 uint8 RGB of any size",
        "parameters": learner.num_parameters(),
        "formats": {
            each.format: {
                "folder": f"{folder}/{each.format}",
                "size_bytes": each.size_bytes,
                "metrics": each.parity.metrics,
            }
            for each in exported
        },
    }


def _write_info(folder: Path, name: str, models: list[dict[str, Any]]) -> None:
    """Write `deployment_info.json` and `README.md` of a bundle."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    info = {"package": name, "created": created, "eyevsai": VERSION, "models": models}
    (folder / INFO).write_text(
        json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    rows = [
        f"| {model['dataset']} | {model['model']}/{model['variation']} | {model['accuracy']:.4f} "
        f"({model['metric']}) | {len(model['classes'])} | "
        + ", ".join(f"`{each['folder']}`" for each in model["formats"].values())
        + " |"
        for model in models
    ]
    (folder / README).write_text(
        "\n".join(
            [
                f"# {name}",
                "",
                f"Created by eyevsai {VERSION} on {created}. Each folder contains a model, "
                "`manifest.json` with its classes and the SHA-256 of its files, and "
                "`example.py`, which requires the format's runtime, numpy and Pillow:",
                "",
                "    python example.py IMAGE",
                "",
                "| dataset | model | accuracy | classes | folders |",
                "|---|---|---|---|---|",
                *rows,
                "",
                f"`{INFO}` has the same information in machine-readable form.",
                "",
            ]
        ),
        encoding="utf-8",
    )
