"""Runs that `mlflow run` created for commands which failed before they used them."""

from __future__ import annotations

from contextlib import suppress

from eyevsai.core.errors import UserError
from eyevsai.registry.entities import open_registry
from eyevsai.store.backend import raising_store_errors
from eyevsai.store.given_run import check_given_run, name_given_run, tag_given_run
from eyevsai.store.tags import JOB, SCHEMA, SCHEMA_VERSION
from eyevsai.store.uris import find_store, mask_password

ERROR_LENGTH = 500  # characters of the tag


def label_failed_call(run_id: str, entry_point: str, error: BaseException | None) -> None:
    """Name the run of a failed call after its entry point, and tag it with the error.

    Does nothing if the run belongs to another command or was used already, or if the store is
    unusable.
    """
    with suppress(UserError):
        uri = find_store()
        with raising_store_errors(uri, "Naming the run"):
            client = open_registry(uri)
            check_given_run(client, run_id)
            name_given_run(client, run_id, entry_point)
            reason = mask_password(str(error) or type(error).__name__)[:ERROR_LENGTH]
            tags = {SCHEMA: str(SCHEMA_VERSION), JOB: entry_point, "error": reason}
            tag_given_run(client, run_id, tags)
