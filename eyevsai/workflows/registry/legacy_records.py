"""Records of the original's training_registry.json, checked by `schemas/legacy_registry.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from eyevsai.core.errors import UserError, read_error
from eyevsai.core.json_schema import VALUE_LENGTH, find_error, load_validator
from eyevsai.core.names import ModelName
from eyevsai.evaluation.metric_names import VALID_ACCURACY
from eyevsai.models.factory import FAMILIES
from eyevsai.store.tags import JOB
from eyevsai.tracking.backfill import BackfilledRun
from eyevsai.tracking.search import IMPORTED

ACCURACY = "best_validation_accuracy"
KEPT = (
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
TAG_LENGTH = 5000  # the record itself has all of it
EARLIEST = datetime(2000, 1, 1).astimezone()
DIGITS = 18  # longer integers become floats, because Python refuses to parse more than 4300 digits


@dataclass(frozen=True)
class LegacyModel:
    """A model of the original as a run and the tags of a version."""

    model_id: str
    name: ModelName
    run: BackfilledRun
    version_tags: Mapping[str, str]

    @property
    def has_version(self) -> bool:
        """Return True if the training has a model; a failed training has none."""
        return self.run.status == "FINISHED"


@dataclass(frozen=True)
class RejectedRecord:
    """A record that cannot be imported, and the reason."""

    record: str
    reason: str


def read_legacy_records(path: Path) -> tuple[list[LegacyModel], list[RejectedRecord]]:
    """Return the valid records of a registry in the order of the file, and the rejected ones.

    Raises:
        UserError: the file cannot be read, or is not such a registry.
    """
    records, left_out = list[LegacyModel](), list[RejectedRecord]()
    for key, content in _read_models(path):
        try:
            records.append(parse_record(content))
        except UserError as error:
            left_out.append(RejectedRecord(key, str(error)))
    counts = Counter(record.model_id for record in records)
    for model_id, count in counts.items():
        if count > 1:
            left_out.append(
                RejectedRecord(
                    model_id, f"is the model_id of {count} records: leave the right one in the file"
                )
            )
    return [record for record in records if counts[record.model_id] == 1], left_out


class _Object(dict[str, Any]):
    """A JSON object that keeps all its pairs, because a file may contain a key twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _read_models(path: Path) -> list[tuple[str, Any]]:
    fix = "Give the original's training_registry.json."
    try:
        content = json.loads(
            path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Object, parse_int=_read_int
        )
    except FileNotFoundError:
        raise UserError(f"There is no file {path}. {fix}") from None
    except OSError as error:
        raise read_error(path, error, fix) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}). {fix}") from error
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, _Object):
        raise UserError(f"{path} is not a registry: it has no 'models'. {fix}")
    return models.pairs


def _read_int(digits: str) -> float:
    return int(digits) if len(digits) <= DIGITS else float(digits)


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
    kept = {name: _join(content[name]) for name in KEPT if content.get(name) not in (None, "", [])}
    run = BackfilledRun(
        f"{name} {content['version']}",
        STATUSES[content["training_status"]],
        started_ms,
        ended_ms,
        _list_params(content),
        _list_metrics(content),
        {JOB: "import", **vars(name), **origin, **kept},
        record_json,
    )
    accuracy = content[ACCURACY]
    known = {} if accuracy is None else {"accuracy": f"{accuracy:.4f}"}
    return LegacyModel(content["model_id"], name, run, {**origin, **known})


def _find_family(model_type: str) -> str:
    """Return the family of a type, which the original writes as `deep-v1` or `deep_v1`; other types
    stay as they are.
    """
    family = model_type.lower().replace("-", "_")
    return family if family in FAMILIES else model_type


def _find_times(content: Mapping[str, Any]) -> tuple[int, int]:
    """Return start and end of the training in ms: the original registers a model at its end, in
    local time.

    Dates are parsed here because JSON Schema cannot compare them, nor does its `date-time` accept
    times without an offset.
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
    settings = content.get("final_hyperparameters")
    if settings is None:
        settings = content.get("hyperparameters") or {}
    return {name: "" if value is None else str(value) for name, value in settings.items()}


def _list_metrics(content: Mapping[str, Any]) -> dict[str, float]:
    """Return the accuracy under the name of eyevsai and the other numbers under their own; other
    values stay in the record alone.
    """
    accuracy = content[ACCURACY]
    ours = {} if accuracy is None else {VALID_ACCURACY: float(accuracy)}
    return ours | {
        f"imported/{name}": float(value)
        for name, value in (content.get("metrics") or {}).items()
        if type(value) in (int, float) and name != ACCURACY
    }


def _list_files(content: Mapping[str, Any]) -> list[str]:
    """Return the names of the files that existed in the model's folder."""
    kinds = content.get("model_files") or {}
    return sorted(
        {
            PurePosixPath(each["path"]).name
            for entries in kinds.values()
            for each in entries
            if each.get("exists", True)
        }
    )


def _join(value: Any) -> str:
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value))[:TAG_LENGTH]


def _format_record(content: Mapping[str, Any]) -> str:
    """Return the record as JSON.

    Raises:
        UserError: a database cannot store it, which depends on the characters at any depth.
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
