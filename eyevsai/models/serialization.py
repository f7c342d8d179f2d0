"""Model folders: the weights of a learner in safetensors, all other state in a JSON card.

Imports torch only to save and load weights: promotions read cards and compare checksums.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyevsai.core.errors import UserError, read_error
from eyevsai.core.hashing import hash_file
from eyevsai.models.factory import build, resolve_model

if TYPE_CHECKING:
    from torch import Tensor

    from eyevsai.models.learner import Learner

WEIGHTS, CONFIG, FORMAT = "model.safetensors", "model.json", 2
CHECKSUM, CHECKSUM_SINCE_FORMAT = "card_sha256", 2  # cards of format 1 have no checksum


def save(learner: Learner, folder: Path) -> None:
    """Write `model.safetensors` and `model.json` into `folder`, creating it if it is missing."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous().cpu() for name, tensor in learner.tensors().items()},
        folder / WEIGHTS,
    )
    card = {
        "format": FORMAT,
        "family": learner.family,
        "variation": learner.variation,
        "settings": vars(learner.settings),
        "classes": learner.classes,
        "preprocessing": learner.preprocessing.to_json(),
        "temperature": learner.temperature,
        "pruned": learner.pruned,
        "sha256": hash_file(folder / WEIGHTS),
    }
    (folder / CONFIG).write_text(
        json.dumps(add_checksum(card), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def add_checksum(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a card with the SHA-256 of all its other entries."""
    entries = {name: value for name, value in card.items() if name != CHECKSUM}
    digest = hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
    return entries | {CHECKSUM: digest}


def load(folder: Path) -> Learner:
    """Return the learner that `save` wrote into `folder`.

    Raises:
        UserError: the folder contains no model, or one of a newer format, a checksum does not
            match, or the weights do not fit the card.
    """
    from eyevsai.data.preprocessing import Preprocessing

    card = read_config(folder)
    try:
        _check_weights(folder / WEIGHTS, card["sha256"])
        variation = resolve_model(card["family"], card["variation"]).declaration
        settings = variation.settings(**variation.complete(card["settings"]))
        learner = build(card["family"], card["variation"], settings, card["classes"], seed=0)
        learner.preprocessing = Preprocessing.from_json(card["preprocessing"])
        learner.temperature = float(card.get("temperature", 1.0))
        learner.pruned = float(card.get("pruned", 0.0))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} is not an eyevsai model: {CONFIG} is invalid ({error})."
        ) from error
    learner.load_tensors(_read_weights(folder / WEIGHTS))
    return learner


def read_config(folder: Path) -> dict[str, Any]:
    """Return the card that `save` wrote into `folder`: all state of a learner but its tensors.

    Raises:
        UserError: the card is missing, malformed, of a newer format, or its checksum does not
            match.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        newer = card["format"] > FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} is not an eyevsai model: {CONFIG} cannot be read ({error})."
        ) from error
    if newer:
        raise UserError(
            f"{folder} was saved by a newer eyevsai (format {card['format']}). Upgrade eyevsai."
        )
    if card["format"] >= CHECKSUM_SINCE_FORMAT and card != add_checksum(card):
        raise _changed_error(folder / CONFIG)
    return card


def check_weights(folder: Path) -> str:
    """Return the SHA-256 of the weights that `save` wrote into `folder`, after checking it.

    Raises:
        UserError: the weights or the card are missing, or have changed since they were saved.
    """
    digest = str(read_config(folder)["sha256"])
    _check_weights(folder / WEIGHTS, digest)
    return digest


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is not a valid safetensors file ({error}).") from error


def _check_weights(path: Path, expected: str) -> None:
    """Raise UserError if the file cannot be read or its SHA-256 is not `expected`."""
    try:
        digest = hash_file(path)
    except OSError as error:
        raise read_error(path, error) from error
    if digest != expected:
        raise _changed_error(path)


def _changed_error(path: Path) -> UserError:
    return UserError(f"{path} is not the file that was saved: its SHA-256 differs. Fetch it again.")
