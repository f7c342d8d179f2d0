"""Settings and variations of the deep_v1 family. Free of torch imports, to keep help fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from eyevsai.core.settings import Choice, Detail, Doc, Range, Search
from eyevsai.models.base import Family, Variation
from eyevsai.training.settings import NetworkSettings


@dataclass(frozen=True)
class DeepV1Settings(NetworkSettings):
    """Settings of both variations: four blocks of convolutions, each with max-pooling."""

    PANEL: ClassVar[str] = "deep_v1"
    LEGACY: ClassVar[Mapping[str, Any]] = {**NetworkSettings.LEGACY, "pooling": "late"}

    image_size: int = 96
    epochs: int = 70
    random_erasing: float = 0.1
    width: Annotated[
        int,
        Range(4, 256),
        Search(Choice((16, 32, 48))),
        Doc("Channels of the first block; they double in each later block."),
    ] = 32
    convolutions: Annotated[int, Range(1, 4), Detail(), Doc("Convolutions per block.")] = 2
    pooling: Annotated[
        str,
        Choice(("first", "early", "late")),
        Detail(),
        Doc(
            "Max-pooling of the output of a block's first convolution (first), of its last one "
            "(early), or of its last activation (late); the later, the slower."
        ),
    ] = "first"
    dropout: Annotated[
        float,
        Range(0, 0.9),
        Search(Range(0.0, 0.5)),
        Doc("Dropout before the classifier (Srivastava et al. 2014)."),
    ] = 0.2
    head_units: Annotated[
        int,
        Range(0, 4096),
        Detail(),
        Doc("Units of the hidden layer of the classifier; 0 for none."),
    ] = 0


# The defaults fit the budget of a CPU, measured on two cores (benchmarks/RESULTS.md). A GPU allows
# larger images, 5 M parameters and longer training; this preset was not measured on one.
GPU = {
    "image_size": 128,
    "batch_size": 256,
    "width": 64,
    "epochs": 200,
    "random_erasing": 0.25,
    "auto_augment": "trivial",
}

FAMILY = Family(
    name="deep_v1",
    title="Plain convolutional network",
    learner="eyevsai.models.deep_v1.network:DeepV1Learner",
    variations={
        "standard": Variation(
            title="Standard CNN",
            technical="Four blocks of two convolutions (32, 64, 128, 256 channels) with batch "
            "normalisation and max-pooling, global average pooling and a linear classifier.",
            simple="Learns to see layer by layer: first edges, then shapes, then whole objects.",
            settings=DeepV1Settings,
            presets={"gpu": GPU},
            papers=(
                "LeCun et al. 1998: Gradient-Based Learning Applied to Document Recognition",
                "Krizhevsky et al. 2012: ImageNet Classification with Deep Convolutional Neural "
                "Networks",
                "Simonyan & Zisserman 2014: Very Deep Convolutional Networks for Large-Scale "
                "Image Recognition",
            ),
        ),
        "residual": Variation(
            title="Residual CNN",
            technical="The standard network with a skip connection around the convolutions of each "
            "block (He et al. 2016).",
            simple="The same network with shortcuts around its layers, so that early layers learn "
            "as easily as late ones.",
            settings=DeepV1Settings,
            presets={"gpu": GPU},
            papers=("He et al. 2016: Deep Residual Learning for Image Recognition",),
        ),
    },
)
