"""import: what the original's registry knew, as runs and versions of this store."""

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
    """A record that is in the store now."""

    model_id: str
    run_id: str
    model_uri: str | None  # none of a failed training


@dataclass(frozen=True)
class ImportResult:
    """How the records of a registry fared."""

    written: list[WrittenModel] = field(default_factory=list)
    there: list[str] = field(default_factory=list)  # model_ids that were in the store before
    left_out: list[RejectedRecord] = field(default_factory=list)
    # kept as they are, for they are no family of ours
    unknown_types: list[str] = field(default_factory=list)


def import_legacy_registry(path: Path) -> ImportResult:
    """Writes each record of the original's training_registry.json as a run, and as a version if it
    has a model.

    What is there already stays as it is, so importing again adds nothing, and finishes an import
    that was killed. The model files are pickles, which are neither opened nor copied.

    Raises:
        UserError: the file is no registry.
        JobError: the store did not take a record; those before it are there.
    """
    records, left_out = read_legacy_records(path)
    done = ImportResult(left_out=left_out)
    with handling_signals() as stop:
        tracking_uri = open_store()

        with lock_store(tracking_uri, "import.lock"):  # two at once would both find nothing
            known = find_imported(tracking_uri)
            for record in track(records, "Importing", total=len(records)):
                run = known.get(record.model_id)
                if run is not None and (run.status == "FAILED" or "version" in run.tags):
                    done.there.append(record.model_id)
                    continue
                with stop.shielded():
                    _write(tracking_uri, record, run.run_id if run else None, done)
    types = {record.name.model for record in records} - set(FAMILIES)
    done.unknown_types.extend(sorted(types))
    return done


def _write(tracking_uri: str, record: LegacyModel, begun: str | None, done: ImportResult) -> None:
    """Writes the run, then the version; the version's URI on the run is the last thing to be
    written.
    """
    with raising_store_errors(tracking_uri, f"Importing record {record.model_id}"):
        try:
            check_name(tracking_uri, record.name)
        except UserError as error:
            done.left_out.append(RejectedRecord(record.model_id, f"cannot be registered. {error}"))
            return
        run_id, uri = backfill_run(tracking_uri, record.run, begun), None
        if record.has_version:
            uri = register(tracking_uri, record.name, None, run_id, record.version_tags)
    done.written.append(WrittenModel(record.model_id, run_id, uri))
