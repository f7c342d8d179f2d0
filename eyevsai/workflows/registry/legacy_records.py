"""The records of the original's training_registry.json: read, and checked one by one."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.names import ModelName
from eyevsai.evaluation.metric_names import VALID_ACCURACY
from eyevsai.models.factory import FAMILIES
from eyevsai.tracking.backfill import BackfilledRun
from eyevsai.tracking.search import IMPORTED

TEXTS = (
    "model_id",
    "model_type",
    "variation",
    "dataset",
    "version",
    "registered_at",
    "training_status",
)
# null where the original did not know
ACCURACY, SECONDS = ("best_validation_accuracy", "training_time_seconds")
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
TEXT_LENGTH = 60  # four of them fit into the 250 characters that PostgreSQL keeps of a run's name
TAG_LENGTH = 5000  # the record itself has all of it
LONGEST_S = 10_000_000.0
EARLIEST = datetime(2000, 1, 1).astimezone()
# what MLflow takes as the name of a parameter or a metric
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,199}")
DIGITS = (
    18  # of whole numbers that are kept as such; longer ones are no numbers that a training has
)


@dataclass(frozen=True)
class LegacyModel:
    """One model of the original, as a run and the tags of a version; a failed training gets no
    version.
    """

    model_id: str
    name: ModelName
    run: BackfilledRun
    version_tags: Mapping[str, str]

    @property
    def has_version(self) -> bool:
        """Whether its training made a model."""
        return self.run.status == "FINISHED"


@dataclass(frozen=True)
class RejectedRecord:
    """A record that cannot be imported, and why."""

    record: str
    reason: str


def read_legacy_records(path: Path) -> tuple[list[LegacyModel], list[RejectedRecord]]:
    """The records of a registry in its own order, and those that are left out.

    Raises:
        UserError: the file cannot be read, or is no such registry.
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
    """A JSON object that remembers the pairs it was written as: a key may stand in a file twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _read_models(path: Path) -> list[tuple[str, Any]]:
    try:
        content = json.loads(
            path.read_text(encoding="utf-8-sig"), object_pairs_hook=_Object, parse_int=_read_int
        )
    except FileNotFoundError:
        raise UserError(
            f"There is no file {path}. Give the original's training_registry.json."
        ) from None
    except OSError as error:
        raise UserError(
            f"Cannot read {path}: {error.strerror}. Give the original's training_registry.json."
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON ({error}). Give the original's training_registry.json."
        ) from error
    models = content.get("models") if isinstance(content, dict) else None
    if not isinstance(models, _Object):
        raise UserError(
            f"{path} is no registry: it has no 'models'. Give the original's "
            "training_registry.json."
        )
    return models.pairs


def _read_int(digits: str) -> float:
    return int(digits) if len(digits) <= DIGITS else float(digits)


def parse_record(content: Any) -> LegacyModel:
    """One record.

    Raises:
        UserError: what is wrong with it, as the end of a sentence that begins with its name.
    """
    if not isinstance(content, dict):
        raise UserError(f"is {_shown(content)}, not an object")
    if missing := [name for name in (*TEXTS, ACCURACY, SECONDS) if name not in content]:
        raise UserError(f"lacks {', '.join(missing)}")
    model_id, model_type, variation, dataset, version, _, _ = (
        _find_text(content, name) for name in TEXTS
    )
    name = ModelName(dataset, _find_family(model_type), variation)
    accuracy = _find_number(content, ACCURACY, 1.0)
    started_ms, ended_ms = _find_times(content)
    origin = {IMPORTED: model_id, "original_version": version, "files": _join(_find_files(content))}
    kept = {name: _join(content[name]) for name in KEPT if content.get(name) not in (None, "", [])}
    run = BackfilledRun(
        f"{name} {version}",
        _find_status(content),
        started_ms,
        ended_ms,
        _find_params(content),
        _find_metrics(content, accuracy),
        {"job": "import", **vars(name), **origin, **kept},
        _write(content),
    )
    known = {} if accuracy is None else {"accuracy": f"{accuracy:.4f}"}
    return LegacyModel(model_id, name, run, {**origin, **known})


def _find_text(content: Mapping[str, Any], name: str) -> str:
    value = content[name]
    if not isinstance(value, str) or not 0 < len(value.strip()) <= len(value) <= TEXT_LENGTH:
        raise UserError(f"has {name} {_shown(value)}, not a text of 1 to {TEXT_LENGTH} characters")
    return value


def _find_family(model_type: str) -> str:
    """The original writes `deep-v1` in some places and `deep_v1` in others; a type that is none of
    ours stays.
    """
    family = model_type.lower().replace("-", "_")
    return family if family in FAMILIES else model_type


def _find_status(content: Mapping[str, Any]) -> str:
    status = content["training_status"]
    if status not in STATUSES:
        raise UserError(f"has training_status {_shown(status)}, neither {' nor '.join(STATUSES)}")
    return STATUSES[status]


def _find_number(content: Mapping[str, Any], name: str, highest: float) -> float | None:
    value = content[name]
    if value is None:
        return None
    if not _is_number(value) or not 0 <= value <= highest:
        raise UserError(f"has {name} {_shown(value)}, not a number from 0 to {highest:,.0f}")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _find_times(content: Mapping[str, Any]) -> tuple[int, int]:
    """When the training began and ended, in ms: the original registers a model at its end, in local
    time.
    """
    written, latest = content["registered_at"], datetime.now().astimezone() + timedelta(days=1)
    try:
        ended = datetime.fromisoformat(written).astimezone()
    except (ValueError, OverflowError):
        raise UserError(
            f"has registered_at {_shown(written)}, not a time such as 2025-07-05T12:20:14"
        ) from None
    if not EARLIEST <= ended <= latest:
        raise UserError(
            f"has registered_at {_shown(written)}, not a time from {EARLIEST.year} until now"
        )
    ended_ms, seconds = int(ended.timestamp() * 1000), _find_number(content, SECONDS, LONGEST_S)
    return ended_ms - int((seconds or 0.0) * 1000), ended_ms


def _find_params(content: Mapping[str, Any]) -> dict[str, str]:
    field = (
        "hyperparameters"
        if content.get("final_hyperparameters") is None
        else "final_hyperparameters"
    )
    settings = _find_object(content, field)
    _check_names(field, settings)
    return {name: "" if value is None else str(value) for name, value in settings.items()}


def _find_metrics(content: Mapping[str, Any], accuracy: float | None) -> dict[str, float]:
    """The accuracy under our name, the others under theirs; a metric that is a text stays in the
    record alone.
    """
    metrics = {
        name: value for name, value in _find_object(content, "metrics").items() if _is_number(value)
    }
    _check_names("metrics", metrics)
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise UserError(f"has metric {name} {_shown(value)}, not a finite number")
    ours = {} if accuracy is None else {VALID_ACCURACY: accuracy}
    return ours | {
        f"imported/{name}": float(value) for name, value in metrics.items() if name != ACCURACY
    }


def _find_files(content: Mapping[str, Any]) -> list[str]:
    """Names of the files that the original saw in the model's folder."""
    kinds = _find_object(content, "model_files")
    try:
        there = [
            each["path"] for files in kinds.values() for each in files if each.get("exists", True)
        ]
        return sorted({PurePosixPath(path).name for path in there})
    except (TypeError, KeyError, AttributeError):
        raise UserError("has model_files that are not lists of objects with a path") from None


def _find_object(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = content.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"has {name} {_shown(value)}, not an object")
    return value


def _check_names(field: str, values: Mapping[str, Any]) -> None:
    for name in values:
        if not NAME.fullmatch(name):
            raise UserError(f"has {field} with the name {_shown(name)}, which MLflow does not take")


def _join(value: Any) -> str:
    return (", ".join(map(str, value)) if isinstance(value, list) else str(value))[:TAG_LENGTH]


def _write(content: Mapping[str, Any]) -> str:
    """The record as JSON, once it is certain that a store can take its texts."""
    try:
        written = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        written.encode()
    except (UnicodeEncodeError, RecursionError):
        raise UserError("holds half a character, or nests too deep") from None
    if "\\u0000" in written:
        raise UserError("holds the character of number 0, which databases do not take")
    return written


def _shown(value: Any) -> str:
    try:
        return json.dumps(value)[:60]
    except RecursionError:
        return "what nests too deep"
