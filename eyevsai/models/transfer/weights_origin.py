"""Identification of the network that a weights file belongs to, for error messages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from eyevsai.models.transfer.backbones import BACKBONES

Shapes = Mapping[str, tuple[int, ...]]

MIN_SHARE = 0.9  # of the weights of file and network that are equal in name and shape


@dataclass(frozen=True)
class Origin:
    """Networks whose names contain a text.

    Attributes:
        marker: regular expression that some name in the file matches.
        title: description of these networks for a message.
        library: torchvision or timm; None if its networks are not compared.
        models: regular expression of the networks in `library` to compare with the file.
    """

    marker: str
    title: str
    library: str | None = None
    models: str = ""


# in order of preference: the first that fits describes the file
ORIGINS = (
    Origin(r"^stages\.\d+\.\d+\.|^head\.\d+\.", "a model of eyevsai"),
    Origin(r"\bembedder\.embedder\.", "a ResNet of Hugging Face transformers"),
    Origin(r"\bconv_stem\.first_conv\.", "a MobileNet of Hugging Face transformers"),
    Origin(
        r"\bencoder\.blocks\.\d+\.(?:expansion|depthwise_conv)\.",
        "an EfficientNet of Hugging Face transformers",
    ),
    Origin(r"\bpatch_embeddings\.", "a vision transformer of Hugging Face transformers"),
    Origin(r"\bvisual\.|\bvision_model\.", "a CLIP model"),
    Origin(r"\bpatch_embed\.proj\.", "a vision transformer of timm"),
    Origin(
        r"\bconv_stem\.",
        "an EfficientNet or MobileNet of timm",
        "timm",
        r"(tf_)?efficientnet_(b|lite)[0-4]|mobilenetv2_100|mobilenetv3_\w+_100",
    ),
    Origin(r"\b_blocks\.\d", "an EfficientNet of efficientnet_pytorch"),
    Origin(r"\bmodel\.\d+\.(?:cv1|conv)\.", "a YOLO of Ultralytics"),
    Origin(
        r"\blayer[1-4]\.\d+\.conv1\.",
        "a ResNet",
        "torchvision",
        r"(resnet|resnext|wide_resnet).*",
    ),
    Origin(r"\bdenseblock1\.", "a DenseNet", "torchvision", "densenet.*"),
    Origin(
        r"\bencoder\.layers\.encoder_layer_0\.", "a ViT of torchvision", "torchvision", "vit_b.*"
    ),
    Origin(
        r"\bfeatures\.\d+\.\d+\.",
        "an EfficientNet, MobileNet or ConvNeXt of torchvision",
        "torchvision",
        "mobilenet.*|efficientnet_(b[0-4]|v2_s)|convnext_[ts].*",
    ),
    Origin(
        r"\bfeatures\.\d+\.\w",
        "a VGG or AlexNet of torchvision",
        "torchvision",
        "vgg.*|alexnet|squeezenet.*",
    ),
)


@dataclass(frozen=True)
class Identified:
    """Network of a weights file: its description for a message, and a variation that fits it."""

    title: str
    variation: str | None = None


def identify_network(shapes: Shapes) -> Identified | None:
    """Return the network that the names and shapes in a file belong to; None if it is unknown.

    Takes up to two seconds, as networks are built to compare with; their weights have no memory.
    """
    for origin in ORIGINS:
        if not any(re.search(origin.marker, name) for name in shapes):
            continue
        scores = {name: _similarity(shapes, network) for name, network in _build(origin)}
        name = max(scores, key=lambda each: scores[each], default="")
        if not name or scores[name] < MIN_SHARE:
            return Identified(origin.title)
        fitting = (
            variation
            for variation, backbone in BACKBONES.items()
            if (backbone.library, backbone.name) == (origin.library, name)
        )
        return Identified(f"{name} of {origin.library}", next(fitting, None))
    return None


def _build(origin: Origin) -> Iterator[tuple[str, Shapes]]:
    """Yield name, and the shapes of the weights by name, of each network to compare with."""
    if origin.library == "torchvision":
        from torchvision.models import get_model as create
        from torchvision.models import list_models
    elif origin.library == "timm":
        from timm import create_model as create
        from timm import list_models
    else:
        return
    for name in list_models():
        if re.fullmatch(origin.models, name):
            with torch.device("meta"):
                network = create(name)
            yield name, {key: tuple(each.shape) for key, each in network.state_dict().items()}


def _similarity(shapes: Shapes, network: Shapes) -> float:
    """Return the share of weights that are equal in name and shape, under the best prefix."""
    counts = Counter(
        name[:start]
        for name, shape in shapes.items()
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", name)))
        if network.get(name[start:]) == shape
    )
    prefix, count = counts.most_common(1)[0] if counts else ("", 0)
    num_names = sum(name.startswith(prefix) for name in shapes)
    return count / max(len(network), num_names)
