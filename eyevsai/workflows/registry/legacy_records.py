"""Records of the legacy training_registry.json, validated by `schemas/legacy_registry.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.json_schema import VALUE_LENGTH, find_error, load_validator
from eyevsai.core.names import ModelName
from eyevsai.evaluation.metric_names import VALID_ACCURACY
from eyevsai.models.factory import FAMILIES
from eyevsai.registry.audit_log import TAG_LENGTH
from eyevsai.store.tags import JOB
from eyevsai.tracking.backfill import BackfilledRun
from eyevsai.tracking.search import IMPORTED
from eyevsai.workflows.registry.legacy_file import read_models

ACCURACY = "best_validation_accuracy"
# fields that become tags of the run
TAG_FIELDS = (
    "session_id",
    "export_status",
    "production_ready",
    "gpu_used",
    "cuda_version",
    "pytorch_version",
    "notes",
    "tags",
)
STATUSES = {"completed": "FINISHED", "failed": "FAILED"}
EARLIEST = datetime(2000, 1, 1).astimezone()


@dataclass(frozen=True)
class LegacyModel:
    """Model of the legacy system as a run and the tags of a version."""

    model_id: str
    name: ModelName
    run: BackfilledRun
    version_tags: Mapping[str, str]

    @property
    def has_version(self) -> bool:
        """True if the training completed; a failed training has no model."""
        return self.run.status == "FINISHED"


@dataclass(frozen=True)
class RejectedRecord:
    """Record that cannot be imported, and the reason."""

    record: str  # key in the file, or model_id
    reason: str  # end of a sentence that begins with `record`


def read_legacy_records(path: Path) -> tuple[list[LegacyModel], list[RejectedRecord]]:
    """Return the valid records of a registry in the order of the file, and the rejected ones.

    Raises:
        UserError: the file cannot be read, or is not a legacy registry.
    """
    records, rejected = list[LegacyModel](), list[RejectedRecord]()
    for key, content in read_models(path):
        try:
            records.append(parse_record(content))
        except UserError as error:
            rejected.append(RejectedRecord(key, str(error)))
    counts = Counter(record.model_id for record in records)
    for model_id, count in counts.items():
        if count > 1:
            reason = f"is the model_id of {count} records: keep only the right one in the file"
            rejected.append(RejectedRecord(model_id, reason))
    return [record for record in records if counts[record.model_id] == 1], rejected


def parse_record(content: Any) -> LegacyModel:
    """Return the run and the version tags of a record.

    Raises:
        UserError: the record is invalid; the message is the end of a sentence that begins with the
            name of the record.
    """
    validator = load_validator("eyevsai.workflows.registry", "legacy_registry.json")
    if error := find_error(validator, content):
        raise UserError(error)
    record_json = _format_record(content)
    name = ModelName(content["dataset"], _find_family(content["model_type"]), content["variation"])
    started_ms, ended_ms = _find_times(content)
    origin = {
        IMPORTED: content["model_id"],
        "original_version": content["version"],
        "files": _join(_list_files(content)),
    }
    field_tags = {
        name: _join(content[name]) for name in TAG_FIELDS if content.get(name) not in (None, "", [])
    }
    run = BackfilledRun(
        f"{name} {content['version']}",
        STATUSES[content["training_status"]],
        started_ms,
        ended_ms,
        _list_params(content),
        _list_metrics(content),
        {JOB: "import", **vars(name), **origin, **field_tags},
        record_json,
    )
    accuracy = content[ACCURACY]
    accuracy_tag = {} if accuracy is None else {"accuracy": f"{accuracy:.4f}"}
    return LegacyModel(content["model_id"], name, run, {**origin, **accuracy_tag})


def _find_family(model_type: str) -> str:
    """Return the family of a model type, such as `deep-v1` or `deep_v1`.

    Types that are not families of eyevsai are returned unchanged.
    """
    family = model_type.lower().replace("-", "_")
    return family if family in FAMILIES else model_type


def _find_times(content: Mapping[str, Any]) -> tuple[int, int]:
    """Return start and end of the training in ms since 1970.

    The legacy system registers a model at the end of its training. Times without an offset are
    local. Dates are parsed here because JSON Schema cannot compare them, and its `date-time`
    requires an offset.

    Raises:
        UserError: the date is invalid, before `EARLIEST` or in the future.
    """
    written, latest = content["registered_at"], datetime.now().astimezone() + timedelta(days=1)
    problem = f"has registered_at {json.dumps(written)[:VALUE_LENGTH]}, not a time"
    try:
        ended = datetime.fromisoformat(written).astimezone()
    except (ValueError, OverflowError):
        raise UserError(f"{problem} such as 2025-07-05T12:20:14") from None
    if not EARLIEST <= ended <= latest:
        raise UserError(f"{problem} from {EARLIEST.year} until now")
    ended_ms = int(ended.timestamp() * 1000)
    return ended_ms - int((content["training_time_seconds"] or 0) * 1000), ended_ms


def _list_params(content: Mapping[str, Any]) -> dict[str, str]:
    """Return `final_hyperparameters`, or `hyperparameters` if those are missing or null."""
    settings = content.get("final_hyperparameters")
    if settings is None:
        settings = content.get("hyperparameters") or {}
    return {name: "" if value is None else str(value) for name, value in settings.items()}


def _list_metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracy as `VALID_ACCURACY`, and other numeric metrics as `imported/NAME`."""
    accuracy = content[ACCURACY]
    metrics = {} if accuracy is None else {VALID_ACCURACY: float(accuracy)}
    return metrics | {
        f"imported/{name}": float(value)
        for name, value in (content.get("metrics") or {}).items()
        if type(value) in (int, float) and name != ACCURACY
    }


def _list_files(content: Mapping[str, Any]) -> list[str]:
    """Return the sorted names of the files that existed in the model's folder."""
    files_by_type = content.get("model_files") or {}
    return sorted(
        {
            PurePosixPath(each["path"]).name
            for entries in files_by_type.values()
            for each in entries
            if each.get("exists", True)
        }
    )


def _join(value: Any) -> str:
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value))[:TAG_LENGTH]


def _format_record(content: Mapping[str, Any]) -> str:
    """Return the record as JSON.

    Raises:
        UserError: the record is nested too deeply, or has text that databases do not accept.
    """
    try:
        record_json = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        record_json.encode()
    except RecursionError:
        raise UserError("is nested too deeply") from None
    except UnicodeEncodeError:
        raise UserError("contains an unpaired surrogate, which databases do not accept") from None
    if "\\u0000" in record_json:
        raise UserError("contains the character U+0000, which databases do not accept")
    return record_json
