"""Ranking of the registered models of a dataset, and promotion of the best one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose
from eyevsai.core.quantities import format_count
from eyevsai.models.factory import select_models
from eyevsai.registry.registration import create_reference
from eyevsai.registry.settings import PromoteSettings
from eyevsai.registry.versions import versions_by_run
from eyevsai.store.backend import open_store, raising_store_errors
from eyevsai.store.tags import DATASET_DIGEST
from eyevsai.tracking.search import find_trained

if TYPE_CHECKING:
    from eyevsai.workflows.registry.promote import Promoted


@dataclass(frozen=True)
class RankedModel:
    """Registered model version in the ranking of a dataset."""

    uri: str
    run_id: str
    metric: str  # name of the metric that `accuracy` is taken from
    accuracy: float
    fingerprint: str  # digest of the dataset; empty if unknown


def find_best(dataset: str, models: str | None = None) -> list[RankedModel]:
    """Return the registered models of a dataset across families, the best first.

    They are ranked by test accuracy, or else by valid accuracy. The list is empty if models were
    trained but none is registered. `models` are comma-separated families or family/variation; None
    selects all.

    Raises:
        UserError: no model was trained on the dataset, or a model is unknown; the message suggests
            the nearest one.
        JobError: the store failed.
    """
    pairs = None if models is None else select_models(models)
    tracking_uri = open_store()
    with raising_store_errors(tracking_uri, "Reading the registry"):
        trained, versions = find_trained(tracking_uri), versions_by_run(tracking_uri)
    choose(
        "dataset with a trained model",
        dataset,
        sorted({run.tags.get("dataset", "") for run in trained} - {""}),
    )
    ranked = sorted(
        (
            run
            for run in trained
            if run.tags.get("dataset") == dataset
            and run.run_id in versions
            and (pairs is None or (run.tags.get("model"), run.tags.get("variation")) in pairs)
        ),
        key=lambda run: run.rank_key,
    )
    return [
        RankedModel(
            versions[run.run_id].uri, run.run_id, *run.score, run.tags.get(DATASET_DIGEST, "")
        )
        for run in ranked
    ]


def promote_best(
    dataset: str,
    policy: str | None,
    state_dir: str,
    *,
    force: bool,
    class_change: bool,
    reason: str | None,
    models: str | None = None,
) -> Promoted:
    """Promote the best model of a dataset to Production, as a version of the model `dataset`.

    The best version is registered again under the name of the dataset, as a reference, and must
    pass the same checks as any other.

    Args:
        dataset: name of the dataset.
        policy: file with the promotion policy; None for the default file.
        state_dir: folder of run state on this machine.
        force: promote although policy checks fail; requires `reason`.
        class_change: promote although the classes differ from those of the stage.
        reason: reason, recorded in the audit log; None for a generated one.
        models: families or family/variation to choose from, as in `find_best`.

    Raises:
        UserError: no model of the dataset is registered, or `force` has no reason.
        JobError: a promotion check failed, or the store failed.
    """
    # imported late because it loads torch, which `find_best` does not need
    from eyevsai.workflows.registry.promote import promote

    tracking_uri = open_store()
    ranking = find_best(dataset, models)
    if not ranking:
        raise UserError(
            f"No trained model of {dataset} is registered: eyevsai train --dataset {dataset}"
        )
    # raises for a missing reason before the reference is registered
    settings = PromoteSettings(
        name=dataset,
        version=1,
        policy=policy,
        force=force,
        class_change=class_change,
        reason=reason,
        state_dir=state_dir,
    )
    with raising_store_errors(tracking_uri, f"Registering a version of {dataset}"):
        name, version = create_reference(tracking_uri, dataset, ranking[0].uri)
    recorded_reason = reason or f"the best of {format_count(len(ranking), 'model')}"
    return promote(replace(settings, name=name, version=version, reason=recorded_reason))
