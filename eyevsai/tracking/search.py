"""Finding runs and what they logged."""

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
from eyevsai.evaluation.metric_names import SCORES
from eyevsai.store.paging import iter_pages, list_experiments
from eyevsai.store.tags import CLASSES_SHA256, EVALUATION_DIGEST, JOB, SOURCE_RUN_ID

CLASSES = "classes.json"  # the artifact of a training run that names its classes
IMPORTED = "imported"  # the tag of a run that another registry knew first: its name there
AT_ONCE = 1000  # runs of one answer


@dataclass(frozen=True)
class RunInfo:
    """What the store knows of a run."""

    run_id: str
    name: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    model_uri: str | None  # of the model that it logged

    @property
    def score(self) -> tuple[str, float]:
        """The metric by which it is held against others, and its value: -1 when it has none."""
        return next(
            ((name, self.metrics[name]) for name in SCORES if name in self.metrics),
            (SCORES[-1], -1.0),
        )

    @property
    def rank_key(self) -> tuple[int, float]:
        """Sort key by which the best run comes first; a test score goes before a valid score."""
        name, value = self.score
        return SCORES.index(name), -value


def find_run(tracking_uri: str, run_id: str) -> RunInfo:
    """The run of this id.

    Raises:
        UserError: there is none, or it was deleted.
    """
    try:
        run = MlflowClient(tracking_uri=tracking_uri).get_run(run_id)
    except MlflowException as error:
        raise UserError(
            f"There is no run {run_id} in the store. `eyevsai ui` shows those that are there."
        ) from error
    if run.info.lifecycle_stage != "active":
        raise UserError(
            f"Run {run_id} was deleted. Restore it first: mlflow runs restore --run-id {run_id}"
        )
    return _describe(run)


def find_evaluations(tracking_uri: str, run_id: str) -> list[RunInfo]:
    """Return what judged the model of a run, whether or not the run is still there.

    The run itself comes first, if its model was evaluated by its own test split; then other
    evaluations, newest first. Each has `test/` metrics, the tag `eyevsai.evaluation_digest` and
    a table of predictions.
    """
    wanted = (
        f"tags.`{JOB}` = 'evaluate' and tags.`{SOURCE_RUN_ID}` = '{run_id}' and "
        f"tags.`{EVALUATION_DIGEST}` LIKE '%' and attributes.status = 'FINISHED'"
    )
    try:
        own = [find_run(tracking_uri, run_id)]
    except UserError:
        own = []
    return [
        each for each in (*own, *_find_all(tracking_uri, wanted)) if EVALUATION_DIGEST in each.tags
    ]


def find_trained(tracking_uri: str) -> list[RunInfo]:
    """All finished runs that trained a model, newest first."""
    return _find_all(tracking_uri, f"tags.`{JOB}` = 'train' and attributes.status = 'FINISHED'")


def find_tagged(tracking_uri: str, tags: Mapping[str, str]) -> list[RunInfo]:
    """All runs that have these tags, newest first."""
    return [run for run in _find_all(tracking_uri, _filter_string(tags)) if _has(run.tags, tags)]


def find_imported(tracking_uri: str) -> dict[str, RunInfo]:
    """The runs that were imported, or begun to be, by what they are called where they come from."""
    found = _find_all(tracking_uri, f"tags.`{JOB}` = 'import' and tags.{IMPORTED} != ''")
    return {run.tags[IMPORTED]: run for run in found}


def _find_all(tracking_uri: str, wanted: str) -> list[RunInfo]:
    client = MlflowClient(tracking_uri=tracking_uri)
    experiments = [each.experiment_id for each in list_experiments(client)]
    newest = ["attributes.end_time DESC"]
    return [
        _describe(run)
        for run in iter_pages(
            lambda token: client.search_runs(
                experiments, wanted, ViewType.ACTIVE_ONLY, AT_ONCE, newest, token
            )
        )
    ]


def _describe(run: Run) -> RunInfo:
    models = run.outputs.model_outputs if run.outputs else []
    uri = f"models:/{models[-1].model_id}" if models else None
    info, data = run.info, run.data
    return RunInfo(
        info.run_id, info.run_name or "", info.status, data.tags, data.params, data.metrics, uri
    )


def find_study(
    tracking_uri: str,
    tags: Mapping[str, str],
    wanted: str | None,
    classes_sha256: str | None = None,
) -> str | None:
    """Return the run of the newest finished study with these tags; with `wanted`, the one of that
    name or run id.

    With `classes_sha256`, studies of another class list are skipped, unless the run id names one.
    Studies of earlier versions do not record theirs, and are not skipped.
    """
    client = MlflowClient(tracking_uri=tracking_uri)
    conditions = {JOB: "tune", **tags}
    if wanted is not None:
        conditions["study"] = wanted
        try:
            run = client.get_run(wanted)
        except MlflowException:
            pass
        else:
            return run.info.run_id if _has(run.data.tags, {JOB: "tune", **tags}) else None
    experiments = [each.experiment_id for each in list_experiments(client)]
    wanted, newest = (
        f"{_filter_string(conditions)} and attributes.status = 'FINISHED'",
        ["attributes.end_time DESC"],
    )
    runs = iter_pages(
        lambda token: client.search_runs(
            experiments, wanted, ViewType.ACTIVE_ONLY, AT_ONCE, newest, token
        )
    )
    found = (
        run
        for run in runs
        if _has(run.data.tags, conditions) and has_classes(run.data.tags, classes_sha256)
    )
    return next((run.info.run_id for run in found), None)


def read_text(tracking_uri: str, run_id: str, name: str) -> str | None:
    """A text artifact of a run; None when it has none of that name."""
    client, parent = MlflowClient(tracking_uri=tracking_uri), str(PurePosixPath(name).parent)
    if name not in {
        artifact.path
        for artifact in client.list_artifacts(run_id, None if parent == "." else parent)
    }:
        return None
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")


def read_json(tracking_uri: str, run_id: str, name: str) -> Any:
    """A JSON artifact of a run; None when it has none of that name."""
    text = read_text(tracking_uri, run_id, name)
    return None if text is None else json.loads(text)


def _filter_string(tags: Mapping[str, str]) -> str:
    """A filter for runs that have all these tags; `_has` looks again."""
    return " and ".join(f"tags.`{name}` {_compare(value)}" for name, value in tags.items())


def _compare(value: str) -> str:
    """A filter knows no escapes: a value with both kinds of quotes, or a backslash, which would eat
    one, is any.
    """
    if "\\" in value or ("'" in value and '"' in value):
        return "!= ''"
    return f'= "{value}"' if "'" in value else f"= '{value}'"


def has_classes(tags: Mapping[str, str], classes_sha256: str | None) -> bool:
    """Return True unless tags record another class list."""
    return classes_sha256 is None or tags.get(CLASSES_SHA256, classes_sha256) == classes_sha256


def _has(known: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    return all(known.get(name) == value for name, value in tags.items())
