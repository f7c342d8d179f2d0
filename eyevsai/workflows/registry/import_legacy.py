"""Workflow of `registry import`: records of the legacy registry as runs and versions."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from eyevsai.core.errors import UserError
from eyevsai.core.progress import track
from eyevsai.models.factory import FAMILIES
from eyevsai.registry.registration import check_name, register
from eyevsai.store.backend import lock_store, open_store, raising_store_errors
from eyevsai.tracking.backfill import backfill_run
from eyevsai.tracking.search import find_imported
from eyevsai.workflows.registry.legacy_records import (
    LegacyModel,
    RejectedRecord,
    read_legacy_records,
)
from eyevsai.workflows.shutdown import handling_signals

log = logging.getLogger("eyevsai")


@dataclass(frozen=True)
class WrittenModel:
    """Record that was imported by this call."""

    model_id: str
    run_id: str
    model_uri: str | None  # None for a failed training


@dataclass(frozen=True)
class ImportResult:
    """Imported, existing and rejected records of a legacy registry."""

    written: list[WrittenModel] = field(default_factory=list)
    existing: list[str] = field(default_factory=list)  # model_ids that were imported earlier
    left_out: list[RejectedRecord] = field(default_factory=list)
    # model types that are not families of eyevsai, imported as they are
    unknown_types: list[str] = field(default_factory=list)


def import_legacy_registry(path: Path) -> ImportResult:
    """Write each record of the legacy training_registry.json as a run.

    A record of a completed training also becomes a version. Records that were imported earlier are
    skipped, and an interrupted import is completed. Model files are pickles: they are neither
    opened nor copied. Invalid records are part of the result.

    Raises:
        UserError: the file is not a legacy registry, or the store is unusable.
        JobError: the store failed; records before that are imported.
    """
    records, rejected = read_legacy_records(path)
    result = ImportResult(left_out=rejected)
    with handling_signals() as stop:
        tracking_uri = open_store()

        with lock_store(tracking_uri, "import.lock"):  # concurrent imports would duplicate records
            imported_runs = find_imported(tracking_uri)
            for record in track(records, "Importing", total=len(records)):
                run = imported_runs.get(record.model_id)
                if run is not None and (run.status == "FAILED" or "version" in run.tags):
                    result.existing.append(record.model_id)
                    continue
                with stop.shielded():
                    _write(tracking_uri, record, run.run_id if run else None, result)
    types = {record.name.model for record in records} - set(FAMILIES)
    result.unknown_types.extend(sorted(types))
    return result


def _write(
    tracking_uri: str, record: LegacyModel, unfinished_run_id: str | None, result: ImportResult
) -> None:
    """Write the run of a record, then its version, and add the outcome to `result`.

    The run gets the version's URI last, which marks a complete import.

    Args:
        tracking_uri: URI of the tracking store.
        record: record to import.
        unfinished_run_id: run of an interrupted import of this record, to be completed.
        result: result of the import so far.

    Raises:
        JobError: the store failed.
    """
    with raising_store_errors(tracking_uri, f"Importing record {record.model_id}"):
        try:
            check_name(tracking_uri, record.name)
        except UserError as error:
            reason = f"cannot be registered. {error}"
            result.left_out.append(RejectedRecord(record.model_id, reason))
            return
        run_id, uri = backfill_run(tracking_uri, record.run, unfinished_run_id), None
        if record.has_version:
            uri = register(tracking_uri, record.name, None, run_id, record.version_tags)
    result.written.append(WrittenModel(record.model_id, run_id, uri))
