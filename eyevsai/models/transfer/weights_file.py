"""Weights files: reading, unwrapping of checkpoints, and matching of names with a network.

A checkpoint stores its state dict at some place, `state_dict` for example, under names with some
prefix, such as `module.` or `model.`. Both are found by comparison with the names of the network,
not from a list of tools: the place and prefix under which most names match are used.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eyevsai.core.errors import UserError, first_line, read_error
from eyevsai.core.names import nearest
from eyevsai.models.transfer.backbones import BACKBONES, Backbone
from eyevsai.models.transfer.weights_origin import identify_network

log = logging.getLogger("eyevsai")

SHOWN = 4  # names listed in a message
MIN_SHARE = 0.1  # of the names of a network, under a prefix that is taken
MAX_DEPTH = 4  # nested mappings of a checkpoint
# inserted before any part of a name by torch.compile, FSDP, activation checkpointing and Fabric
INSERTED = re.compile(
    r"\b(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
AVERAGED = re.compile(r"(?:^|[._])(?:ema|modelema|averaged?|avg|swa)(?=[._]|$)", re.IGNORECASE)
FEATURES = "features."
# parts of torch's messages about pickled code that it does not load
FOREIGN = ("Unsupported global", "Unsupported class", "TorchScript")
GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
# a plain container of values in checkpoints of timm and torchvision; it runs no code of the file
SAFE_CONTAINERS = (argparse.Namespace,)


@dataclass(frozen=True)
class StateDict:
    """State dict in a file: its tensors by their names in the file.

    `place` consists of the keys of the mappings around it, such as `state_dict_ema.`; it is empty
    at the top.
    """

    place: str
    tensors: Mapping[str, Tensor]


@dataclass(frozen=True)
class Match:
    """State dict whose names were matched with those of a network.

    Attributes:
        source: the state dict.
        prefix: start of the names in the file that belong to the network.
        names: name in the network of each of these names, whether the network has it or not.
        num_matching: number of them that the network has.
    """

    source: StateDict
    prefix: str
    names: Mapping[str, str]
    num_matching: int

    @property
    def origin(self) -> str:
        """Place and prefix, as in `state_dict.model.`; empty for a plain state dict."""
        return self.source.place + self.prefix

    @property
    def is_averaged(self) -> bool:
        """True if the weights are an exponential or other moving average, by their name."""
        return AVERAGED.search(self.origin) is not None


def load_weights(backbone: Backbone, network: nn.Module, path: Path) -> None:
    """Load the weights in a file into a network, except for those of the classifier.

    Logs which weights of a checkpoint are taken; averaged (EMA) weights are preferred.

    Args:
        backbone: declaration of the network.
        network: a network that `backbone` built.
        path: weights file.

    Raises:
        UserError: the file cannot be read, contains anything but finite dense tensors, or belongs
            to another network; the message lists keys of the file and what it seems to be.
    """
    expected = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(backbone.classifier)
    }
    state_dicts = read_state_dicts(path)
    matches = sorted(
        (match for each in state_dicts for match in _match(each, expected, backbone)),
        key=lambda match: (
            -match.num_matching,
            not match.is_averaged,
            0 if match.num_matching else -len(match.names),
        ),
    )
    match = matches[0]
    source = match.source.tensors
    unusable = [
        key for key, name in match.names.items() if not _is_usable(source[key], expected.get(name))
    ]
    if unusable:
        raise UserError(
            f"{path} contains weights that are not finite floats in dense tensors: "
            f"{_list_some(unusable)}."
        )
    if problems := _compare(match, expected):
        raise _mismatch_error(path, backbone, match, problems, expected)
    if match.origin:
        others = {other.origin for other in matches if other.num_matching == match.num_matching}
        log.info(
            "Loading the %sweights %s* of %s%s",
            "averaged (EMA) " * match.is_averaged,
            match.origin,
            path,
            "".join(f"; not used: {each}*" for each in sorted(others - {match.origin})),
        )
    tensors = {name: source[key] for key, name in match.names.items()}
    network.load_state_dict(network.state_dict() | tensors)


def read_state_dicts(path: Path) -> list[StateDict]:
    """Return the state dicts of a weights file, without running code from it.

    The file is safetensors, or a file of torch.save: a state dict, or mappings that contain some.

    Raises:
        UserError: the file cannot be read, is truncated or damaged, contains pickled objects, or
            contains no state dict.
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
                with torch.serialization.safe_globals(list(SAFE_CONTAINERS)):
                    content = torch.load(stream, map_location="cpu", weights_only=True)
    except OSError as error:
        raise read_error(path, error) from error
    except Exception as error:
        # depending on the file's content, torch raises unpickling, zip, value, key or other errors
        if any(word in str(error) for word in FOREIGN):
            name = GLOBAL.search(str(error))
            raise UserError(
                f"{path} contains pickled objects besides tensors"
                f"{f' ({name[1]})' if name else ''}, which could run code and are never loaded. "
                "Save only the weights: torch.save(network.state_dict(), PATH), or as safetensors."
            ) from error
        raise UserError(
            f"{path} is not a weights file, or is truncated or damaged ({first_line(error)})."
        ) from error
    state_dicts = list(_find_state_dicts(content))
    if not state_dicts:
        raise UserError(f"{path} contains no state dict, a mapping from weight names to tensors.")
    return state_dicts


def _find_state_dicts(content: Any, place: str = "", depth: int = 0) -> Iterator[StateDict]:
    """Yield the tensors of each mapping in a loaded file, the outer ones first."""
    if not isinstance(content, Mapping):
        return
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield StateDict(place, tensors)
    for key, value in content.items() if depth < MAX_DEPTH else ():
        yield from _find_state_dicts(value, f"{place}{key}.", depth + 1)


def _match(
    state_dict: StateDict, expected: Mapping[str, Tensor], backbone: Backbone
) -> Iterator[Match]:
    """Yield a match for each prefix under which names of the network are found, the best first.

    Names of a file that was saved from `network.features` alone lack `features.`. Without any
    match, yield all names as they are.
    """
    plain = {key: INSERTED.sub("", key) for key in state_dict.tensors}
    forms: list[Callable[[str], str]] = [backbone.rename]
    if any(name.startswith(FEATURES) for name in expected):
        forms.append(lambda name: FEATURES + backbone.rename(name))
    matches = []
    for form in forms:
        counts = Counter[str]()
        for name in plain.values():
            for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
                if form(name[start:]) in expected:
                    counts[name[:start]] += 1
        # a few equal names, such as bn1.bias, are no evidence for a prefix
        significant = {name: n for name, n in counts.items() if n > MIN_SHARE * len(expected)}
        for prefix, count in (significant or {"": 0}).items():
            names = {
                key: form(name.removeprefix(prefix))
                for key, name in plain.items()
                if name.startswith(prefix)
            }
            backbone_names = {
                key: name
                for key, name in names.items()
                if not name.removeprefix(FEATURES).startswith(backbone.classifier)
            }
            matches.append(Match(state_dict, prefix, backbone_names, count))
    yield from sorted(matches, key=lambda match: (-match.num_matching, len(match.prefix)))


def _compare(match: Match, expected: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Return the missing, unexpected and misshapen weights; empty if all are as expected.

    Missing weights have their name in the network, all others their key in the file.
    """
    present = set(match.names.values())
    # optional, because files of old PyTorch versions lack them
    missing = [
        name
        for name in expected
        if name not in present and not name.endswith("num_batches_tracked")
    ]
    unexpected = [key for key, name in match.names.items() if name not in expected]
    tensors = match.source.tensors
    misshapen = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(expected[name].shape)}"
        for key, name in match.names.items()
        if name in expected and tensors[key].shape != expected[name].shape
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    return {problem: names for problem, names in problems.items() if names}


def _mismatch_error(
    path: Path,
    backbone: Backbone,
    match: Match,
    problems: Mapping[str, list[str]],
    expected: Mapping[str, Tensor],
) -> UserError:
    """Return the error for a file of another network, with keys as they are in the file."""
    tensors = match.source.tensors
    identified = identify_network(
        {INSERTED.sub("", key): tuple(tensor.shape) for key, tensor in tensors.items()}
    )
    num_fitting = match.num_matching - len(problems.get("of another shape", []))
    details = "; ".join(
        f"{len(names)} {problem}: {_list_some(names)}" for problem, names in problems.items()
    )
    if missing := problems.get("missing"):
        guess = nearest(missing[0], problems.get("unexpected", []))
        details += f". Nearest key to {missing[0]}: {guess}" if guess else ""
    place = f" of {match.source.place.rstrip('.')}" if match.source.place else ""
    variation = identified.variation if identified else None
    if variation is not None and BACKBONES[variation] == backbone:
        title = ", but those of a network like it"
        fix = "Save all weights of the network, no others."
    else:
        title = f", but seems to be {identified.title}" if identified else ""
        other = f", or --variation {variation}" if variation else ""
        fix = f"Use weights of {backbone.name}{other}."
    return UserError(
        f"{path} does not contain the weights of {backbone.name}{title}. Its first keys{place}: "
        f"{_list_some(list(tensors))}. Of {len(expected)} expected names, {num_fitting} match; "
        f"{details}. {fix}"
    )


def _is_usable(tensor: Tensor, expected: Tensor | None) -> bool:
    """Return True if the tensor is dense, real, in memory, and finite, and no quantized weight."""
    if expected is not None and expected.is_floating_point() and not tensor.is_floating_point():
        return False
    is_dense = tensor.layout is torch.strided and not tensor.is_meta
    is_real = not tensor.is_complex() and not tensor.is_quantized
    return is_dense and is_real and bool(torch.isfinite(tensor.float()).all())


def _list_some(names: list[str]) -> str:
    """Return the first `SHOWN` names, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
