"""The one contract of all families, and the folder in which a learner is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from eyevsai.core.errors import UserError
from eyevsai.core.hashing import hash_file
from eyevsai.core.settings import Settings
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.models.anatomy import Anatomy
from eyevsai.models.families import family_of, variation_of
from eyevsai.training.checkpoint import Checkpoints
from eyevsai.training.trainer import OnEpoch

WEIGHTS, CARD, FORMAT = "model.safetensors", "model.json", 2

SEAL, SEALED = "card_sha256", 2  # the format from which on cards have one

Images = npt.NDArray[np.uint8] | Sequence[npt.NDArray[np.uint8]]  # N,H,W,3, or N of H,W,3


class Learner(Protocol):
    """A classifier of any family: it fits, predicts, and is saved without a pickle."""

    family: str
    variation: str
    settings: Settings
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    temperature: (
        float  # divides the logarithms of what is said; 1 until it is fitted to held-out images
    )
    pruned: float  # the share of each layer's channels that was taken away; 0 when none was

    def prepare(self, train_labels: Sequence[str]) -> None:
        """Gets ready to learn from images of these classes; `preprocessing` is settled from then
        on.

        Raises:
            UserError: these settings cannot learn from them, or what learning begins with cannot be
                had.
        """

    def compute(self) -> dict[str, str]:
        """What will compute: device, precision and threads."""

    def fit(
        self, train: Split, valid: Split, on_epoch: OnEpoch, checkpoints: Checkpoints | None = None
    ) -> None:
        """Learns from `train`; calls `on_epoch(epoch, row)` after each pass, once if there are no
        passes.

        A family that learns in passes goes on from the last of `checkpoints` and saves its own
        there.
        """

    def predict_proba(self, images: Images) -> npt.NDArray[np.float32]:
        """N images uint8 RGB of any size -> N,C float32 probabilities, computed in float32."""

    def graph(self) -> nn.Module:
        """A module from N,H,W,3 uint8 of one size, any, to N,C float32 probabilities; on the CPU,
        to predict with.

        What is done with it leaves the learner as it was.
        """

    def anatomy(self) -> Anatomy:
        """What the model is made of."""

    def num_parameters(self) -> int:
        """How many numbers are learned; 0 where that is not known before `fit`."""

    def tensors(self) -> dict[str, Tensor]:
        """All learned state, by name."""

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `tensors`."""


@runtime_checkable
class FeatureLearner(Learner, Protocol):
    """A learner that classifies features which have names."""

    def features(self, images: Images) -> npt.NDArray[np.float32]:
        """N images uint8 RGB of any size -> N,D float32 features."""

    def predict_features(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """N,D float32 features -> N,C float32 probabilities."""

    def feature_groups(self) -> Mapping[str, slice]:
        """Which columns of the features belong to which name."""


@runtime_checkable
class NetworkModel(Learner, Protocol):
    """A learner that is one torch network, from N,3,S,S to N,C logits."""

    network: nn.Module
    seed: int  # of every random draw while it learns

    def prune(self, share: float) -> None:
        """Takes the least `share` of each layer's channels away; raises UserError where there are
        none to lose.
        """


@runtime_checkable
class MapLearner(NetworkModel, Protocol):
    """A learner whose network averages a map of features over places."""

    def pool(self) -> nn.Module:
        """The layer that averages the map, N,K,h,w."""


def build(
    family: str, variation: str, settings: Settings, classes: Sequence[str], seed: int
) -> Learner:
    """A new learner, its initial weights drawn from `seed`."""
    module, _, name = family_of(family).learner.partition(":")
    learner: Learner = getattr(import_module(module), name)(
        variation, settings, tuple(classes), seed
    )
    return learner


def save(learner: Learner, folder: Path) -> None:
    """Writes `model.safetensors` and `model.json` into `folder`, which is made if it is not
    there.
    """
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
    (folder / CARD).write_text(
        json.dumps(seal(card), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def seal(card: Mapping[str, Any]) -> dict[str, Any]:
    """A card with the SHA-256 of all else that it says."""
    said = {name: value for name, value in card.items() if name != SEAL}
    return said | {SEAL: hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}


def load(folder: Path) -> Learner:
    """The learner that `save` wrote into `folder`.

    Raises:
        UserError: the folder holds no model, one of a newer format, or one whose checksum fails.
    """
    card = read_card(folder)
    try:
        _check_weights(folder / WEIGHTS, card["sha256"])
        _, variation = variation_of(card["family"], card["variation"])
        settings = variation.settings(**card["settings"])
        learner = build(card["family"], card["variation"], settings, card["classes"], seed=0)
        learner.preprocessing = Preprocessing.from_json(card["preprocessing"])
        learner.temperature = float(card.get("temperature", 1.0))
        learner.pruned = float(card.get("pruned", 0.0))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder} holds no eyevsai model: {CARD} does not say what one is ({error})."
        ) from error
    learner.load_tensors(_read_weights(folder / WEIGHTS))
    return learner


def read_card(folder: Path) -> dict[str, Any]:
    """What `save` wrote of a learner besides its tensors.

    Raises:
        UserError: it is not there, of a newer format, or not what was saved.
    """
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        newer = card["format"] > FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder} holds no eyevsai model: {CARD} cannot be read ({error})."
        ) from error
    if newer:
        raise UserError(
            f"{folder} was saved by a newer eyevsai (format {card['format']}). Upgrade eyevsai."
        )
    if card["format"] >= SEALED and card != seal(card):
        raise UserError(
            f"{folder / CARD} is not the file that was saved: its SHA-256 differs. Fetch it again."
        )
    return card


def check_weights(folder: Path) -> str:
    """Return the SHA-256 of the weights that `save` wrote into `folder`.

    Raises:
        UserError: the weights or the card are not the files that were saved.
    """
    digest = str(read_card(folder)["sha256"])
    _check_weights(folder / WEIGHTS, digest)
    return digest


def _read_weights(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} holds no tensors: it is no safetensors file ({error}).") from error


def _check_weights(path: Path, expected: str) -> None:
    try:
        found = hash_file(path)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from error
    if found != expected:
        raise UserError(
            f"{path} is not the file that was saved: its SHA-256 differs. Fetch it again."
        )
