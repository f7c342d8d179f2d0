"""Versions of the names in a store: detection of an earlier one, and its upgrade.

Schema 1 is that of eyevsai before its first release: tags without the prefix `eyevsai.`, metrics
`best/...`, and settings with other names. Schema 2 is the present one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.core.atomic_dir import write_atomically
from eyevsai.core.errors import UserError
from eyevsai.core.legacy_names import SETTING_NAMES, rename_settings
from eyevsai.store import tags
from eyevsai.store.paging import iter_pages, list_experiments
from eyevsai.store.run_dir import RUNS, list_run_dirs
from eyevsai.store.uris import mask_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SCHEMA_1 = "eyevsai"  # the tag that all runs of schema 1 have
TAG_NAMES = {
    "job": tags.JOB,
    "host": tags.HOST,
    "process": tags.PROCESS,
    "ended_by": tags.TERMINATION_REASON,
    "paused_s": tags.PAUSED_S,
    "fingerprint": tags.DATASET_DIGEST,
    "subject": tags.SOURCE_RUN_ID,
    "recipe": tags.JOB_FINGERPRINT,
    "test_fingerprint": tags.EVALUATION_DIGEST,
    "test_weights": tags.EVALUATION_WEIGHTS,
    "weights_sha256": tags.WEIGHTS_SHA256,
    "files_sha256": tags.FILES_SHA256,
    "points_at": tags.SOURCE_VERSION,
    "pruned_from": tags.PRUNED_FROM,
    "complete_trials": tags.COMPLETE_TRIALS,
}
EXPERIMENT_TAG_NAMES = {"eyevsai.store_place": "eyevsai.store_database"}
BEST, VALID_BEST = "best/", "valid/best_"  # how metrics of the best epoch begin, then and now
RUN_FILES = {
    "basis.json": "fingerprint.json",
    "asked.json": "requested_config.json",
    "spool.jsonl": "write_queue.jsonl",
    "spool.done": "write_queue.done",
}
SETTINGS_FILES = ("config.json", "requested_config.json")
POINTS_PER_CALL = 1000  # of metrics, MLflow's limit


@dataclass
class Upgrade:
    """How many objects were upgraded, and how many deleted runs keep their old names."""

    runs: int = 0
    versions: int = 0
    run_dirs: int = 0
    deleted_runs: int = 0


def check_schema(client: MlflowClient) -> None:
    """Raise UserError if the store has runs of an earlier schema."""
    experiments = [each.experiment_id for each in list_experiments(client)]
    if client.search_runs(experiments, f"tags.{SCHEMA_1} = '1'", max_results=1):
        raise UserError(
            f"The store {mask_password(client.tracking_uri)} was written by eyevsai before its "
            "first release, with other names of tags and metrics. Upgrade it with: "
            "eyevsai doctor --upgrade"
        )


def upgrade_store(client: MlflowClient, progress: Callable[[int, int], None]) -> Upgrade:
    """Rename the tags of runs and versions, and log metrics and parameters under their new names.

    MLflow deletes no metric and no parameter, so the old ones stay beside the new. An interrupted
    upgrade is completed by the next one: the tag of schema 1 goes last.

    Args:
        client: of the store.
        progress: called with the number of runs that are done, and of all.
    """
    done = Upgrade()
    experiments = list_experiments(client)
    for experiment in experiments:
        _rename_tags(
            experiment.tags,
            EXPERIMENT_TAG_NAMES,
            partial(client.set_experiment_tag, experiment.experiment_id),
            lambda _: None,  # MLflow deletes no tag of an experiment
        )
    # `check_schema` asks for the tag of schema 1, so the runs that have it come last
    done.versions = _upgrade_versions(client)
    ids = [each.experiment_id for each in experiments]
    runs = sorted(_find_runs(client, ids, deleted=False), key=lambda run: SCHEMA_1 in run.data.tags)
    for number, run in enumerate(runs):
        _upgrade_run(client, run)
        done.runs += 1
        progress(number + 1, len(runs))
    done.deleted_runs = sum(1 for _ in _find_runs(client, ids, deleted=True))
    return done


def check_run_dirs(state_dir: Path) -> None:
    """Raise UserError if this machine has run directories of an earlier schema.

    The store may have been upgraded from another machine.
    """
    for name in RUN_FILES:
        if found := next((state_dir / RUNS).glob(f"*/{name}"), None):
            raise UserError(
                f"{found.parent} was written by eyevsai before its first release. Upgrade the run "
                "directories of this machine with: eyevsai doctor --upgrade"
            )


def upgrade_run_dirs(state_dir: Path) -> int:
    """Rename the files of run directories, and the names in them; return how many were changed."""
    changed = 0
    for run_dir in list_run_dirs(state_dir):
        old = [name for name in RUN_FILES if (run_dir.path / name).exists()]
        if not old:
            continue
        with run_dir.lock():
            if "spool.jsonl" in old:
                _upgrade_queue(run_dir.path)
            for name in old:
                if (run_dir.path / name).exists():
                    (run_dir.path / name).rename(run_dir.path / RUN_FILES[name])
            for name in SETTINGS_FILES:
                if (stored := run_dir.read(name)) is not None:
                    run_dir.write(name, rename_settings(stored))
        changed += 1
    return changed


def _find_runs(client: MlflowClient, experiments: list[str], *, deleted: bool) -> Iterator[Run]:
    """Yield the runs that have tags of schema 1: those of eyevsai, and its records of changes."""
    from mlflow.entities import ViewType

    view = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY

    def search(wanted: str) -> Iterator[Run]:
        """Yield the runs of a filter, page by page."""
        return iter_pages(
            lambda token: client.search_runs(experiments, wanted, view, page_token=token)
        )

    yield from search(f"tags.{SCHEMA_1} = '1'")
    for run in search("tags.job LIKE '%'"):
        known = run.data.tags
        is_ours = "process" in known or known.get("mlflow.source.name") == SCHEMA_1
        if is_ours and SCHEMA_1 not in known:
            yield run


def _upgrade_run(client: MlflowClient, run: Run) -> None:
    from mlflow.entities import Metric, Param

    run_id = run.info.run_id
    points = [
        Metric(rename_metric(name), point.value, point.timestamp, point.step)
        for name in run.data.metrics
        if name.startswith(BEST)
        for point in client.get_metric_history(run_id, name)
    ]
    for start in range(0, len(points), POINTS_PER_CALL):
        client.log_batch(run_id, metrics=points[start : start + POINTS_PER_CALL])
    params = [
        Param(SETTING_NAMES[name], value)
        for name, value in run.data.params.items()
        if name in SETTING_NAMES and SETTING_NAMES[name] not in run.data.params
    ]
    if params:
        client.log_batch(run_id, params=params)
    client.set_tag(run_id, tags.SCHEMA, str(tags.SCHEMA_VERSION))
    _rename_tags(
        run.data.tags,
        TAG_NAMES,
        partial(client.set_tag, run_id),
        partial(client.delete_tag, run_id),
    )
    if SCHEMA_1 in run.data.tags:
        client.delete_tag(run_id, SCHEMA_1)


def _upgrade_versions(client: MlflowClient) -> int:
    found = list(iter_pages(lambda token: client.search_model_versions(page_token=token)))
    return sum(
        _rename_tags(
            version.tags,
            TAG_NAMES,
            partial(client.set_model_version_tag, version.name, version.version),
            partial(client.delete_model_version_tag, version.name, version.version),
        )
        for version in found
    )


def _rename_tags(
    known: Mapping[str, str],
    names: Mapping[str, str],
    set_tag: Callable[[str, str], Any],
    delete_tag: Callable[[str], Any],
) -> bool:
    """Set each old tag under its new name, then delete it; return True if there was one."""
    old = [name for name in names if name in known]
    for name in old:
        if names[name] not in known:
            set_tag(names[name], known[name])
    for name in old:
        delete_tag(name)
    return bool(old)


def rename_metric(name: str) -> str:
    """Return the present name of a metric."""
    return VALID_BEST + name.removeprefix(BEST) if name.startswith(BEST) else name


def _upgrade_queue(folder: Path) -> None:
    """Write the pending operations of a queue with the present names, as a queue of their own."""
    content = (folder / "spool.jsonl").read_bytes()
    try:
        applied = int((folder / "spool.done").read_text())
    except (OSError, ValueError):
        applied = 0
    pending = content[applied : content.rfind(b"\n") + 1].splitlines()
    lines = [json.dumps(_rename_operation(*json.loads(line))) + "\n" for line in pending]
    write_atomically(folder / RUN_FILES["spool.jsonl"], "".join(lines), durable=True)
    # a queue without an offset is applied again, which changes nothing; one with a wrong offset
    # loses operations
    (folder / "spool.done").unlink(missing_ok=True)
    (folder / "spool.jsonl").unlink()


def _rename_operation(kind: str, arguments: dict[str, Any]) -> list[Any]:
    renames: dict[str, Callable[[str], str]] = {
        "tags": lambda name: tags.SCHEMA if name == SCHEMA_1 else TAG_NAMES.get(name, name),
        "metrics": rename_metric,
        "params": lambda name: SETTING_NAMES.get(name, name),
    }
    if kind in renames:
        values = {renames[kind](name): value for name, value in arguments["values"].items()}
        arguments = arguments | {"values": values}
    if kind in ("version", "version_tags"):
        renamed = {TAG_NAMES.get(name, name): value for name, value in arguments["tags"].items()}
        arguments = arguments | {"tags": renamed}
    if kind == "model":
        arguments = arguments | {"params": rename_settings(arguments["params"])}
    return [kind, arguments]
