"""package: the best model of each dataset, exported and bundled for whoever deploys them."""

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
from eyevsai.core.version import VERSION
from eyevsai.formats.settings import ExportSettings
from eyevsai.store.tags import JOB
from eyevsai.tracking.search import RunInfo, find_trained
from eyevsai.workflows.export.export import Exported, ExportPlan, prepare
from eyevsai.workflows.job_context import job_context, log_settings
from eyevsai.workflows.trained_model import find_trained_model

log = logging.getLogger("eyevsai")

INFO, README, PACKAGES = "deployment_info.json", "README.md", "packages"


@dataclass(frozen=True)
class Bundled:
    """A package that was written."""

    folder: Path
    run_id: str  # where it is logged
    models: list[dict[str, Any]]


def bundle(settings: ExportSettings, run_id: str | None = None) -> Bundled:
    """Exports the best models of each dataset, and writes them with what is known of them into one
    folder.

    `run_id` is the run that `mlflow run` made for this call, if one did.

    Raises:
        UserError: something a person must mend.
        JobError: an export does not say what its model says; no package is written.
    """
    with job_context(settings.state_dir, run_id) as job:
        tracking_uri, name = job.tracking_uri, str(settings.package)
        target = Path(settings.output or ".").expanduser() / name
        if target.exists():
            raise UserError(
                f"{target} is there already. Name another --package or --output, or move it away."
            )
        with atomic_output_dir(target, "--output") as building:
            plan = list(_choose(tracking_uri, settings, building))
            tags, title = {JOB: "export", "package": name}, f"package {name}"
            with job.start_run(title, tags) as call:
                log_settings(call, settings)
                models = [_describe(run, each, each.export_all(call)) for run, each in plan]
                _finish(building, target, models)
                call.log_artifacts(f"{PACKAGES}/{name}", target)
        return Bundled(target, call.run_id, models)


def _choose(
    tracking_uri: str, settings: ExportSettings, building: Path
) -> Iterator[tuple[RunInfo, ExportPlan]]:
    """The best runs of each dataset whose models can leave; why a better one cannot is said.

    Raises:
        UserError: there is no model, or none of a dataset's can leave.
    """
    of_datasets: dict[str, list[RunInfo]] = defaultdict(list)
    for run in find_trained(tracking_uri):
        if "dataset" in run.tags:
            of_datasets[run.tags["dataset"]].append(run)
    if not of_datasets:
        raise UserError(
            "No model was trained in this store yet, so there is nothing to package. Train one "
            "first."
        )
    for _, runs in sorted(of_datasets.items()):
        left, refused = settings.per_dataset, list[UserError]()
        for run in sorted(runs, key=lambda run: run.rank_key):
            if not left:
                break
            try:
                source_model = find_trained_model(tracking_uri, run.run_id, None)
                yield run, prepare(source_model, settings, building / source_model.folder_name)
            except UserError as error:
                log.warning("Left out: %s", error)
                refused.append(error)
            else:
                left -= 1
        if left == settings.per_dataset:
            raise refused[-1]


def _finish(building: Path, target: Path, models: list[dict[str, Any]]) -> None:
    try:
        _write_info(building, target.name, models)
        building.chmod(0o755)
        building.rename(target)
    except OSError as error:
        raise write_error(target, error, "The exports are with their runs.", JobError) from error


def _describe(run: RunInfo, plan: ExportPlan, exported: list[Exported]) -> dict[str, Any]:
    metric, value = run.score
    learner, place = plan.source.learner, plan.source_model.folder_name
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
                "folder": f"{place}/{each.format}",
                "size_bytes": each.size_bytes,
                "metrics": each.parity.metrics,
            }
            for each in exported
        },
    }


def _write_info(folder: Path, name: str, models: list[dict[str, Any]]) -> None:
    made = datetime.now(UTC).isoformat(timespec="seconds")
    info = {"package": name, "created": made, "eyevsai": VERSION, "models": models}
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
                f"Made by eyevsai {VERSION} on {made}. Each folder holds a model, "
                "`manifest.json` with its classes and the SHA-256 of its files, and "
                "`example.py`, for that format's runtime, numpy and Pillow:",
                "",
                "    python example.py IMAGE",
                "",
                "| dataset | model | accuracy | classes | folders |",
                "|---|---|---|---|---|",
                *rows,
                "",
                f"`{INFO}` says the same for programs.",
                "",
            ]
        ),
        encoding="utf-8",
    )
