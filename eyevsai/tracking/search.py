"""Search for runs, and reading of their artifacts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException

from eyevsai.core.errors import UserError
from eyevsai.evaluation.metric_names import SCORES, use_current_names
from eyevsai.store.deleted_runs import describe_deletion
from eyevsai.store.paging import PAGE_SIZE, iter_pages, list_experiments
from eyevsai.store.tags import CLASSES_SHA256, EVALUATION_DIGEST, JOB, SOURCE_RUN_ID

CLASSES = "classes.json"  # artifact of a training run with its class names
IMPORTED = "imported"  # tag of an imported run: its id in the other registry


@dataclass(frozen=True)
class RunInfo:
    """Tags, parameters, metrics and model of a run."""

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    model_uri: str | None  # of its last logged model
    experiment_id: str = ""
    started_ms: int | None = None

    @property
    def score(self) -> tuple[str, float]:
        """Name and value of the first metric of `SCORES` that the run has; -1 if it has none."""
        return next(
            ((name, self.metrics[name]) for name in SCORES if name in self.metrics),
            (SCORES[-1], -1.0),
        )

    @property
    def rank_key(self) -> tuple[int, float]:
        """Sort key with the best run first; test scores are sorted before valid scores."""
        name, value = self.score
        return SCORES.index(name), -value


def missing_run(run_id: str) -> str:
    """Return the error message for a run that does not exist."""
    return f"There is no run {run_id!r} in the store. `eyevsai ui` lists the runs."


def find_run(tracking_uri: str, run_id: str) -> RunInfo:
    """Return the run of an id.

    Raises:
        UserError: the run does not exist or was deleted.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise UserError(missing_run(run_id)) from error
    if run.info.lifecycle_stage != "active":
        raise UserError(f"Run {run_id} {describe_deletion(client, run.info)}")
    return _describe(run)


def find_evaluations(tracking_uri: str, run_id: str) -> list[RunInfo]:
    """Return the evaluations of the model of a run, even if the run was deleted.

    The run itself comes first, if its model was evaluated on its own test split, then other
    evaluations, newest first. Each has `test_` metrics, the tag `eyevsai.evaluation_digest` and a
    table of predictions.
    """
    filter_string = (
        f"tags.`{JOB}` = 'evaluate' and tags.`{SOURCE_RUN_ID}` = '{run_id}' and "
        f"tags.`{EVALUATION_DIGEST}` LIKE '%' and attributes.status = 'FINISHED'"
    )
    try:
        runs = [find_run(tracking_uri, run_id)]
    except UserError:
        runs = []
    runs += _find_all(tracking_uri, filter_string)
    return [each for each in runs if EVALUATION_DIGEST in each.tags]


def find_trained(tracking_uri: str) -> list[RunInfo]:
    """Return all finished training runs, newest first."""
    return _find_all(tracking_uri, f"tags.`{JOB}` = 'train' and attributes.status = 'FINISHED'")


def find_tagged(tracking_uri: str, tags: Mapping[str, str]) -> list[RunInfo]:
    """Return all runs with these tags, newest first."""
    return [run for run in _find_all(tracking_uri, _filter_string(tags)) if _has(run.tags, tags)]


def find_imported(tracking_uri: str) -> dict[str, RunInfo]:
    """Return imported runs by their id in the other registry, including incomplete imports."""
    runs = _find_all(tracking_uri, f"tags.`{JOB}` = 'import' and tags.{IMPORTED} != ''")
    return {run.tags[IMPORTED]: run for run in runs}


def _find_all(tracking_uri: str, filter_string: str) -> list[RunInfo]:
    """Return the active runs of all experiments that match a filter, newest first."""
    client = MlflowClient(tracking_uri=tracking_uri)
    experiments = [each.experiment_id for each in list_experiments(client)]
    newest = ["attributes.end_time DESC"]
    return [
        _describe(run)
        for run in iter_pages(
            lambda token: client.search_runs(
                experiments, filter_string, ViewType.ACTIVE_ONLY, PAGE_SIZE, newest, token
            )
        )
    ]


def _describe(run: Run) -> RunInfo:
    models = run.outputs.model_outputs if run.outputs else []
    uri = f"models:/{models[-1].model_id}" if models else None
    info, data = run.info, run.data
    return RunInfo(
        info.run_id,
        info.run_name or "",
        info.status,
        data.tags,
        data.params,
        use_current_names(data.metrics),
        uri,
        str(info.experiment_id),
        info.start_time,
    )


def find_study(
    tracking_uri: str,
    tags: Mapping[str, str],
    study: str | None,
    classes_sha256: str | None = None,
) -> str | None:
    """Return the run id of the newest finished study with these tags; None if there is none.

    Args:
        tracking_uri: URI of the store.
        tags: tags that the study must have.
        study: name or run id of the study, which must have the tags, too; any study if None. A
            study that is selected by its run id need not be finished.
        classes_sha256: digest of a class list; studies of other class lists are skipped, unless
            selected by run id. Studies of earlier versions, which do not record the digest, are not
            skipped.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    conditions = {JOB: "tune", **tags}
    if study is not None:
        conditions["study"] = study
        try:
            run = client.get_run(study)
        except MlflowException:
            pass
        else:
            return run.info.run_id if _has(run.data.tags, {JOB: "tune", **tags}) else None
    experiments = [each.experiment_id for each in list_experiments(client)]
    filter_string = f"{_filter_string(conditions)} and attributes.status = 'FINISHED'"
    newest = ["attributes.end_time DESC"]
    runs = iter_pages(
        lambda token: client.search_runs(
            experiments, filter_string, ViewType.ACTIVE_ONLY, PAGE_SIZE, newest, token
        )
    )
    matches = (
        run
        for run in runs
        if _has(run.data.tags, conditions) and has_classes(run.data.tags, classes_sha256)
    )
    return next((run.info.run_id for run in matches), None)


def read_text(tracking_uri: str, run_id: str, name: str) -> str | None:
    """Return the content of a text artifact; None if it does not exist.

    Args:
        tracking_uri: URI of the store.
        run_id: run that logged the artifact.
        name: path of the artifact, a file in UTF-8.
    """
    client, parent = MlflowClient(tracking_uri=tracking_uri), str(PurePosixPath(name).parent)
    if name not in {
        artifact.path
        for artifact in client.list_artifacts(run_id, None if parent == "." else parent)
    }:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")


def read_json(tracking_uri: str, run_id: str, name: str) -> Any:
    """Return the value of a JSON artifact; None if it does not exist.

    Args:
        tracking_uri: URI of the store.
        run_id: run that logged the artifact.
        name: path of the artifact.
    """
    text = read_text(tracking_uri, run_id, name)
    return None if text is None else json.loads(text)


def _filter_string(tags: Mapping[str, str]) -> str:
    """Return a filter for runs with these tags. It may match more: filter the result by `_has`."""
    return " and ".join(f"tags.`{name}` {_compare(value)}" for name, value in tags.items())


def _compare(value: str) -> str:
    """Return the comparison of a tag with a value, for a filter.

    MLflow's filters have no escape sequences: for a value with both kinds of quotes, or with a
    backslash, which would escape the closing quote, the comparison matches any value.
    """
    if "\\" in value or ("'" in value and '"' in value):
        return "!= ''"
    return f'= "{value}"' if "'" in value else f"= '{value}'"


def has_classes(tags: Mapping[str, str], classes_sha256: str | None) -> bool:
    """Return True unless the tags have the digest of another class list; always True for None."""
    return classes_sha256 is None or tags.get(CLASSES_SHA256, classes_sha256) == classes_sha256


def _has(run_tags: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    return all(run_tags.get(name) == value for name, value in tags.items())
