"""Ranking of the registered models of a dataset, and promotion of the best one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from eyevsai.core.errors import UserError
from eyevsai.core.names import choose
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
    """A trained model of a dataset."""

    uri: str
    run_id: str
    metric: str
    accuracy: float
    fingerprint: str


def find_best(dataset: str) -> list[RankedModel]:
    """The registered models of a dataset across families, the best first: by test accuracy, else by
    valid accuracy.

    Raises:
        UserError: none was trained on it.
    """
    tracking_uri = open_store()
    with raising_store_errors(tracking_uri, "Reading the registry"):
        trained, versions = find_trained(tracking_uri), versions_by_run(tracking_uri)
    choose(
        "dataset with a trained model",
        dataset,
        sorted({run.tags.get("dataset", "") for run in trained} - {""}),
    )
    ranked = sorted(
        (run for run in trained if run.tags.get("dataset") == dataset and run.run_id in versions),
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
) -> Promoted:
    """Makes the best model of a dataset a version of the registered model that is called like the
    dataset, and gives it Production there, after the same checks as any other.

    Raises:
        UserError: there is no registered version of it.
        JobError: the policy is against it.
    """
    # brings torch, which a list of versions needs not wait for
    from eyevsai.workflows.registry.promote import promote

    tracking_uri = open_store()
    ranking = find_best(dataset)
    if not ranking:
        raise UserError(
            f"No trained model of {dataset} is registered: eyevsai train --dataset {dataset}"
        )
    # which asks for a reason before anything is made
    asked = PromoteSettings(
        name=dataset,
        version=1,
        policy=policy,
        force=force,
        class_change=class_change,
        reason=reason,
        state_dir=state_dir,
    )
    with raising_store_errors(tracking_uri, f"Making a version of {dataset}"):
        name, version = create_reference(tracking_uri, dataset, ranking[0].uri)
    why = reason or f"the best of {len(ranking)} models"
    return promote(replace(asked, name=name, version=version, reason=why))
