"""The legacy system's training_registry.json, read without validation of its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError, read_error

DIGITS = 18  # longer integers become floats: Python refuses to parse more than 4300 digits


class _Object(dict[str, Any]):
    """A JSON object that keeps all its pairs, because a file may contain a key twice."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def read_models(path: Path) -> list[tuple[str, Any]]:
    """Return the records of a registry with their keys, in the order of the file.

    Raises:
        UserError: the file cannot be read, or is not a legacy registry.
    """
    fix = "Use the training_registry.json of the legacy system."
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
