"""Checks of class lists before training, tuning and promotion."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eyevsai.core.errors import UserError
from eyevsai.core.names import ModelName
from eyevsai.models.serialization import read_config
from eyevsai.registry.classes import (
    ClassChange,
    check_change,
    compare_classes,
    read_classes,
    record_classes,
    recorded_classes,
    stage_prefix,
)
from eyevsai.registry.entities import STORE_ERRORS, find_model, open_registry
from eyevsai.registry.registration import check_name
from eyevsai.store.backend import raising_store_errors
from eyevsai.tracking.search import CLASSES, read_json
from eyevsai.workflows.registry.promotion_checks import Check

if TYPE_CHECKING:
    from eyevsai.workflows.registry.transaction import RegistryTransaction

log = logging.getLogger("eyevsai")

CHECK = "classes"  # name of the promotion check that --force does not override


def check_classes(
    tracking_uri: str, name: ModelName, classes: Sequence[str], *, consented: bool
) -> None:
    """Compare the classes of a dataset with those of the registered model for its new versions.

    For a registered model without a recorded class list, that of its newest version is recorded, if
    it can be read. Logs the difference, if there is one.

    Args:
        tracking_uri: URI of the tracking store.
        name: dataset, model and variation that the registered model is named after.
        classes: class names of the dataset.
        consented: accept a difference, as `--class-change` does.

    Raises:
        UserError: fewer than half of the recorded classes remain, the classes differ without
            consent, or the registered model belongs to another dataset.
        JobError: the store failed.
    """
    with raising_store_errors(tracking_uri, f"Reading {name.registered}"):
        check_name(tracking_uri, name)
        client = open_registry(tracking_uri)
        model = find_model(client, name.registered)
        if model is None:
            return
        recorded = recorded_classes(model)
        if recorded is None and model.versions:
            newest = model.versions[-1]
            recorded = find_classes(tracking_uri, newest.tags, newest.run_id, newest.uri)
            if recorded is not None:
                record_classes(client, name.registered, recorded)
    change = (
        None if recorded is None else check_change(name, recorded, classes, consented=consented)
    )
    if change is not None and not change.is_empty:
        log.info("The classes of %s change: %s", name.registered, change)


def find_classes(
    tracking_uri: str, tags: Mapping[str, str], run_id: str, uri: str
) -> tuple[str, ...] | None:
    """Return the class list of a version from its tags, else its run, else its files.

    Args:
        tracking_uri: URI of the tracking store.
        tags: tags of the version.
        run_id: id of the version's run; empty if it has none.
        uri: `models:/` URI of the version.

    Returns:
        The class names; None if they cannot be read from any of these.
    """
    from eyevsai.serving.model_dir import MODEL_FOLDER, fetch_model_dir

    classes = read_classes(tags)
    if classes is None and run_id:
        try:
            classes = tuple(read_json(tracking_uri, run_id, CLASSES) or ()) or None
        except (*STORE_ERRORS, ValueError):  # the run or its files were deleted
            log.debug("The classes of run %s cannot be read", run_id, exc_info=True)
    if classes is None:
        try:
            classes = tuple(read_config(fetch_model_dir(uri) / MODEL_FOLDER)["classes"])
        except (UserError, KeyError):
            log.debug("The classes of %s cannot be read", uri, exc_info=True)
    return classes


@dataclass(frozen=True)
class StageClasses:
    """Classes of a version, and their difference from the classes of its new stage so far."""

    uri: str
    stage: str
    classes: tuple[str, ...] | None  # None if unknown
    stage_classes: tuple[str, ...] | None  # None if unknown, or if the stage had no version
    difference: ClassChange  # empty if the classes of the version or of the stage are unknown

    def check(self, *, consented: bool) -> Check:
        """Return the result of the promotion check; a difference passes only if consented to."""
        if self.classes is None or self.stage_classes is None:
            text = f"not compared: no classes are recorded for {self.stage}"
            if self.classes is None:
                text = "not compared: the classes of this version cannot be read"
            return Check(CHECK, True, text)
        if self.difference.is_empty:
            return Check(CHECK, True, f"the classes are those of {self.stage} so far")
        if consented:
            text = f"the classes differ, which --class-change accepts: {self.difference}"
            return Check(CHECK, True, text)
        text = (
            f"The classes of {self.uri} differ from those of {self.stage} so far: "
            f"{self.difference}. Programs that load {self.stage} would get them. If the programs "
            "support this, add --class-change true."
        )
        return Check(CHECK, False, text)


def compare_with_stage(transaction: RegistryTransaction, stage: str, number: int) -> StageClasses:
    """Compare the classes of a version with those that were last promoted to a stage.

    If those are not recorded, the classes of the version that holds the stage are used.

    Args:
        transaction: transaction on the registered model.
        stage: `production` or `staging`.
        number: number of the version.
    """
    version, tracking_uri = transaction.version(number), transaction.tracking_uri
    classes = find_classes(tracking_uri, version.tags, version.run_id, version.uri)
    served = recorded_classes(transaction.model(), stage_prefix(stage))
    if served is None and (current := transaction.current_version(stage)) not in (None, number):
        other = transaction.version(int(current or 0))
        served = find_classes(tracking_uri, other.tags, other.run_id, other.uri)
    is_known = served is not None and classes is not None
    difference = (
        compare_classes(served or (), classes or ()) if is_known else compare_classes((), ())
    )
    return StageClasses(version.uri, stage, classes, served, difference)
