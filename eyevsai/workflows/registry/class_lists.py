"""Class lists that are compared before a model is trained or tuned, and before a version gets a
stage.
"""

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

CHECK = "classes"  # the name of the promotion check that --force does not go past


def check_classes(
    tracking_uri: str, name: ModelName, classes: Sequence[str], *, consented: bool
) -> None:
    """Compare a dataset's classes with those of the registered model that would get a version of
    it.

    A registered model without a record of its classes gets that of its newest version, where it can
    be found.

    Args:
        tracking_uri: the store.
        name: what the registered model is named after.
        classes: of the dataset.
        consented: accept a difference, as `--class-change` does.

    Raises:
        UserError: fewer than half of the recorded classes remain, there is a difference and no
            consent, or the registered model belongs to another dataset.
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
    """Return the class list of a version from its tags, else its run, else its files; None if none
    of them has it.
    """
    from eyevsai.serving.model_dir import MODEL_FOLDER, fetch_model_dir

    found = read_classes(tags)
    if found is None and run_id:
        try:
            found = tuple(read_json(tracking_uri, run_id, CLASSES) or ()) or None
        except (*STORE_ERRORS, ValueError):  # the run or its files were deleted
            log.debug("The classes of run %s cannot be read", run_id, exc_info=True)
    if found is None:
        try:
            found = tuple(read_config(fetch_model_dir(uri) / MODEL_FOLDER)["classes"])
        except (UserError, KeyError):
            log.debug("The classes of %s cannot be read", uri, exc_info=True)
    return found


@dataclass(frozen=True)
class StageClasses:
    """The classes of a version, None if unknown, and their difference from those that its stage has
    had so far.
    """

    uri: str
    stage: str
    classes: tuple[str, ...] | None
    difference: ClassChange

    def check(self, *, consented: bool) -> Check:
        """Return the promotion check: the same classes, or consent to others."""
        if self.difference.is_empty:
            return Check(CHECK, True, f"no other classes than {self.stage} has had")
        if consented:
            return Check(CHECK, True, f"other classes, as --class-change says: {self.difference}")
        text = (
            f"{self.uri} has other classes than {self.stage} has had: {self.difference}. Programs "
            f"that load {self.stage} would get them. If they can take that, add --class-change "
            "true."
        )
        return Check(CHECK, False, text)


def compare_with_stage(change: RegistryTransaction, stage: str, number: int) -> StageClasses:
    """Compare the classes of a version with those that were last promoted to a stage, or that its
    version has now.
    """
    version, tracking_uri = change.version(number), change.tracking_uri
    classes = find_classes(tracking_uri, version.tags, version.run_id, version.uri)
    served = recorded_classes(change.model(), stage_prefix(stage))
    if served is None and (held := change.current_version(stage)) not in (None, number):
        other = change.version(int(held or 0))
        served = find_classes(tracking_uri, other.tags, other.run_id, other.uri)
    known = served is not None and classes is not None
    difference = compare_classes(served or (), classes or ()) if known else compare_classes((), ())
    return StageClasses(version.uri, stage, classes, difference)
