"""Upgrade of a store and of run directories from schema 1 to the current schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.legacy_names import SETTING_NAMES, rename_settings
from eyevsai.core.retry import retry_on_conflict
from eyevsai.evaluation.metric_names import current_name
from eyevsai.store import tags
from eyevsai.store.backend import MISSING
from eyevsai.store.batches import log_batches
from eyevsai.store.paging import iter_pages, list_experiments
from eyevsai.store.run_dir import RunDir, list_run_dirs
from eyevsai.store.schema import RUN_FILES, SCHEMA_1

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

VERSION_TAG_NAMES = {
    "fingerprint": tags.DATASET_DIGEST,
    "weights_sha256": tags.WEIGHTS_SHA256,
    "files_sha256": tags.FILES_SHA256,
    "points_at": tags.SOURCE_VERSION,
    "pruned_from": tags.PRUNED_FROM,
}
TAG_NAMES = VERSION_TAG_NAMES | {
    "job": tags.JOB,
    "host": tags.HOST,
    "process": tags.PROCESS,
    "ended_by": tags.TERMINATION_REASON,
    "paused_s": tags.PAUSED_S,
    "subject": tags.SOURCE_RUN_ID,
    "recipe": tags.JOB_FINGERPRINT,
    "test_fingerprint": tags.EVALUATION_DIGEST,
    "test_weights": tags.EVALUATION_WEIGHTS,
    "complete_trials": tags.COMPLETE_TRIALS,
}
# parameters by command; those of training are in SETTING_NAMES
PARAM_NAMES = {
    "tune": {"jobs": "parallel_jobs", "until": "target_value"},
    "evaluate": {"map": "class_map"},
}
EXECUTOR_NAMES = {"engine": "executor", "job_cpus": "cpus_per_job", "job_gpus": "gpus_per_job"}
BEST = "best/"  # former prefix of the metrics of the best epoch
METRIC_NAMES = {"accumulation": "grad_accum_steps"}
JOBS = frozenset(
    [
        "train",
        "tune",
        "trial",
        "evaluate",
        "export",
        "promote",
        "cleanup",
        "report",
        "data",
        "train_all",
        "import",
        "registry",
        "resume",
    ]
)


def find_old_runs(client: MlflowClient, *, deleted: bool = False) -> list[Run]:
    """Return the runs of schema 1: training and other jobs, and records of registry changes.

    With `deleted`, return the deleted runs instead of the active ones. Runs with the tag by which
    `check_schema` detects schema 1 come last.
    """
    from mlflow.entities import ViewType

    experiments = [each.experiment_id for each in list_experiments(client)]
    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
    old_runs: list[Run] = []
    for filter_string in ("tags.job LIKE '%'", f"tags.{SCHEMA_1} = '1'"):
        runs = iter_pages(partial(_search_page, client, experiments, filter_string, view))
        is_marked = filter_string.startswith(f"tags.{SCHEMA_1}")
        old_runs += [
            run
            for run in runs
            if is_marked or (SCHEMA_1 not in run.data.tags and _is_ours(run.data.tags))
        ]
    return old_runs


def _search_page(
    client: MlflowClient, experiments: list[str], filter_string: str, view: int, token: str | None
) -> Any:
    return client.search_runs(experiments, filter_string, view, page_token=token)


def _is_ours(run_tags: Mapping[str, str]) -> bool:
    """Return True if tags with a `job` but without the tag of schema 1 are of a run of eyevsai.

    Other programs may use a tag `job`, too. In a run of eyevsai its value is in `JOBS`, and the
    source or the process is as eyevsai wrote it.
    """
    if run_tags["job"] not in JOBS:
        return False
    if run_tags.get("mlflow.source.name") == SCHEMA_1:
        return True
    try:
        process = json.loads(run_tags.get("process", ""))
        return {"host", "pid", "started"} <= set(process)
    except (ValueError, TypeError):
        return False


def upgrade_run(client: MlflowClient, run: Run) -> None:
    """Log tags, metrics and parameters of a run under their current names; delete the old tags.

    Old metrics and parameters stay, because MLflow cannot delete them. The tags by which
    `find_old_runs` finds the run are deleted last, so that the next upgrade completes an
    interrupted one. The run must be active: MLflow rejects writes to deleted runs.
    """
    from mlflow.entities import Param, RunTag

    run_id, run_tags = run.info.run_id, run.data.tags
    points = list(_renamed_points(client, run))
    names = SETTING_NAMES | EXECUTOR_NAMES | PARAM_NAMES.get(run_tags.get("job", ""), {})
    params = [
        Param(names[name], value)
        for name, value in run.data.params.items()
        if name in names and names[name] not in run.data.params
    ]
    log_batches(client, run_id, metrics=points, params=params)
    old = [name for name in TAG_NAMES if name in run_tags]
    renamed = {TAG_NAMES[name]: run_tags[name] for name in old}
    renamed[tags.SCHEMA] = str(tags.SCHEMA_VERSION)
    new = [RunTag(name, value) for name, value in renamed.items()]
    retry_on_conflict(partial(client.log_batch, run_id, tags=new))
    # `find_old_runs` searches for these two
    last = [name for name in ("job", SCHEMA_1) if name in run_tags]
    for name in [*(name for name in old if name != "job"), *last]:
        _delete(partial(client.delete_tag, run_id, name))


def _renamed_points(client: MlflowClient, run: Run) -> Iterator[Metric]:
    from mlflow.entities import Metric

    for name in run.data.metrics:
        if rename_metric(name) != name:
            for point in client.get_metric_history(run.info.run_id, name):
                yield Metric(rename_metric(name), point.value, point.timestamp, point.step)


def upgrade_versions(client: MlflowClient) -> int:
    """Rename the tags of all model versions of eyevsai; return the number of changed versions."""
    changed = 0
    for version in list(iter_pages(partial(_versions_page, client))):
        old = [name for name in VERSION_TAG_NAMES if name in version.tags]
        if not old or "registered_by" not in version.tags:  # not registered by eyevsai
            continue
        # last the tag by which `check_schema` detects an old version
        for name in sorted(old, key=lambda name: name == "fingerprint"):
            new, value = VERSION_TAG_NAMES[name], version.tags[name]
            at = (version.name, version.version)
            retry_on_conflict(partial(client.set_model_version_tag, *at, new, value))
            _delete(partial(client.delete_model_version_tag, *at, name))
        changed += 1
    return changed


def _versions_page(client: MlflowClient, token: str | None) -> Any:
    return client.search_model_versions(page_token=token)


def _delete(delete: Callable[[], object]) -> None:
    """Delete a tag, if it still exists."""
    from mlflow.exceptions import MlflowException

    try:
        retry_on_conflict(delete)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise


def rename_metric(name: str) -> str:
    """Return the current name of a metric; names that did not change are returned as they are."""
    if name.startswith(BEST):
        name = f"valid/best_{name.removeprefix(BEST)}"
    return METRIC_NAMES.get(name) or current_name(name)


def find_old_run_dirs(state_dir: Path) -> list[RunDir]:
    """Return the run directories with files of schema 1."""
    return [
        run_dir
        for run_dir in list_run_dirs(state_dir)
        if any((run_dir.path / name).exists() for name in RUN_FILES)
    ]


def upgrade_run_dir(run_dir: RunDir) -> None:
    """Rename the files of a run directory, and the names in its configuration and write queue.

    A further call completes an interrupted one. `find_old_run_dirs` returns the directory as long
    as a file has its old name.

    Raises:
        UserError: another process is working on the run.
    """
    with run_dir.lock():
        for name in ("config.json", "asked.json"):
            if (stored := run_dir.read(name)) is not None:
                run_dir.write(name, rename_settings(stored))
        # Renames come last, because a directory without old file names counts as upgraded.
        if (run_dir.path / "spool.jsonl").exists():
            _upgrade_queue(run_dir.path)
        for old, new in RUN_FILES.items():
            if (run_dir.path / old).exists():
                (run_dir.path / old).replace(run_dir.path / new)


def _upgrade_queue(folder: Path) -> None:
    """Write the pending operations of an old queue to a new one with the current names.

    Deletes the old queue, which must exist, and overwrites the new one.
    """
    content = (folder / "spool.jsonl").read_bytes()
    try:
        applied = int((folder / "spool.done").read_text(encoding="ascii"))
    except (OSError, ValueError):
        applied = 0
    pending = content[applied : content.rfind(b"\n") + 1].decode("utf-8", "replace").splitlines()
    write_atomically(
        folder / RUN_FILES["spool.jsonl"],
        "".join(f"{_rename_line(line)}\n" for line in pending),
        durable=True,
    )
    # The offset first: a queue without an offset is applied again, which is harmless, but one with
    # a wrong offset loses operations.
    (folder / "spool.done").unlink(missing_ok=True)
    (folder / "spool.jsonl").unlink()


def _rename_line(line: str) -> str:
    """Return a line of a queue with the current names; a damaged line is returned unchanged."""
    try:
        kind, arguments = json.loads(line)
        return json.dumps([kind, _rename_arguments(kind, arguments)])
    except (ValueError, TypeError, KeyError, AttributeError):
        return line


def _rename_arguments(kind: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operation of a kind with the current names."""
    if kind == "params":
        return {**arguments, "values": rename_settings(arguments["values"])}
    if kind == "model":
        return {**arguments, "params": rename_settings(arguments["params"])}
    if kind == "metrics":
        values = {rename_metric(name): value for name, value in arguments["values"].items()}
        return {**arguments, "values": values}
    if kind in ("tags", "version", "version_tags"):
        key = "values" if kind == "tags" else "tags"
        names = TAG_NAMES if kind == "tags" else VERSION_TAG_NAMES
        renamed = {names.get(name, name): value for name, value in arguments[key].items()}
        if renamed.pop(SCHEMA_1, None) is not None:
            renamed[tags.SCHEMA] = str(tags.SCHEMA_VERSION)
        return {**arguments, key: renamed}
    return dict(arguments)
