"""transfer's settings and variations, without torch, so that help is instant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice, Doc, Range, Search
from eyevsai.models.base import Family, Variation
from eyevsai.training.settings import UnfreezingSettings

INTERPOLATIONS = ("bilinear", "bicubic")
MAX_UNITS = 8192
OFFLINE = "offline"  # the extra that brings the weights of efficientnet_lite0


@dataclass(frozen=True)
class TransferSettings(UnfreezingSettings):
    """A base that learned from ImageNet, and a head of our own."""

    PANEL: ClassVar[str] = "transfer"

    image_size: int = 192
    batch_size: Annotated[
        int, Range(2, 4096), Search(Choice((16, 32, 64))), Doc("Images per optimizer step.")
    ] = 32
    lr: Annotated[
        float,
        Range(1e-6, 1.0, log=True),
        Search(Range(1e-4, 1e-2, log=True)),
        Doc("Peak learning rate of the head while the base is frozen."),
    ] = 3e-3
    warmup_epochs: float = 1.0
    ema_decay: float = 0.99
    weights: Annotated[
        str,
        Doc(
            "What the base begins with: imagenet, none, or a file: safetensors, or a state dict "
            "of torch.save."
        ),
    ] = "imagenet"
    mean: Annotated[
        str | None,
        Doc(
            "Mean that --weights PATH was trained with, as 0.5,0.5,0.5 of red, green, blue in "
            "0..1; empty takes what a JSON file beside it says, else the base's own."
        ),
    ] = None
    std: Annotated[str | None, Doc("Standard deviation, in the same way.")] = None
    interpolation: Annotated[
        str | None,
        Choice(INTERPOLATIONS),
        Doc("Resizing that the weights were trained with, in the same way."),
    ] = None
    dense_units: Annotated[
        str,
        Search(Choice(("none", "256", "512", "512,256"))),
        Doc(
            "Units of the head's hidden layers, with commas, each with batch normalisation and "
            "dropout; or none."
        ),
    ] = "512"
    dropout: Annotated[
        float, Range(0, 0.9), Search(Range(0.0, 0.5)), Doc("Dropout in the head.")
    ] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = [] if self.dense_units == "none" else self.dense_units.split(",")
        if not all(part.strip().isdecimal() and 1 <= int(part) <= MAX_UNITS for part in parts):
            raise UserError(
                f"--dense-units takes numbers of 1 to {MAX_UNITS} with commas, such as 512,256, "
                f"or none, not {self.dense_units!r}."
            )
        for name in ("mean", "std"):
            parse_color(f"--{name}", getattr(self, name))

    @property
    def units_of_layers(self) -> tuple[int, ...]:
        """`dense_units` as numbers."""
        return () if self.dense_units == "none" else tuple(map(int, self.dense_units.split(",")))


def parse_color(name: str, text: str | None) -> tuple[float, ...] | None:
    """Three numbers of 0 to 1 with commas, above 0 for `std`, as a tuple; UserError for anything
    else.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if (
        len(values) != 3
        or not all(0 <= value <= 1 for value in values)
        or (name.endswith("std") and 0 in values)
    ):
        raise UserError(
            f"{name} takes three numbers of 0 to 1 with commas, such as 0.5,0.5,0.5, not {text!r}."
        )
    return values


# The defaults are the CPU's budget, measured on two cores: see benchmarks/RESULTS.md. A GPU has the
# time for pictures as large as the weights were trained with, and to unfreeze all stages; none was
# at hand to measure this one.
GPU = {
    "image_size": 224,
    "batch_size": 64,
    "ema_decay": 0.999,
    "unfreeze_stages": 5,
    "fine_tune_epochs": 30,
    "feature_views": 8,
    "auto_augment": "trivial",
}
UNFREEZING = "Howard & Ruder 2018: Universal Language Model Fine-tuning for Text Classification"


def _variation(title: str, technical: str, simple: str, paper: str, **gpu: int) -> Variation:
    course = (
        "The head learns first, on the frozen base; then the base is unfrozen stage by stage "
        "from the top."
    )
    presets = {"gpu": {**GPU, **gpu}}
    return Variation(
        title, f"{technical} {course}", simple, TransferSettings, presets, (paper, UNFREEZING)
    )


FAMILY = Family(
    name="transfer",
    title="Networks that know ImageNet, taught new classes",
    learner="eyevsai.models.transfer.network:TransferLearner",
    extras={OFFLINE: "ImageNet weights of efficientnet_lite0 without a download"},
    variations={
        "mobilenet_v2": _variation(
            "MobileNetV2",
            "Inverted residuals of depthwise separable convolutions, 2.2 M parameters, from "
            "ImageNet.",
            "A small network that has seen a million pictures and only has to learn the new names.",
            "Sandler et al. 2018: MobileNetV2: Inverted Residuals and Linear Bottlenecks",
        ),
        "efficientnet_lite0": _variation(
            "EfficientNet-Lite0",
            "EfficientNet without squeeze-and-excitation and with ReLU6, 3.4 M parameters, from "
            "ImageNet.",
            "Made for phones: sees nearly as well as large networks, at a fraction of the work.",
            "Tan & Le 2019: EfficientNet: Rethinking Model Scaling for Convolutional Neural "
            "Networks",
        ),
        "efficientnet_b0": _variation(
            "EfficientNet-B0",
            "Inverted residuals with squeeze-and-excitation, scaled evenly in depth, width and "
            "size, 4.0 M parameters, from ImageNet.",
            "Depth, width and picture size in balance, so that no part of the network is idle.",
            "Tan & Le 2019: EfficientNet: Rethinking Model Scaling for Convolutional Neural "
            "Networks",
        ),
        "efficientnet_b1": _variation(
            "EfficientNet-B1",
            "EfficientNet-B0, a step deeper and for larger pictures, 6.5 M parameters, from "
            "ImageNet.",
            "The next larger of its kind: looks closer and thinks longer.",
            "Tan & Le 2019: EfficientNet: Rethinking Model Scaling for Convolutional Neural "
            "Networks",
            image_size=240,
        ),
        "resnet50": _variation(
            "ResNet-50",
            "Four stages of bottleneck residual layers, 23.5 M parameters, from ImageNet.",
            "The network that most others are measured against.",
            "He et al. 2016: Deep Residual Learning for Image Recognition",
        ),
        "resnet101": _variation(
            "ResNet-101",
            "Four stages of bottleneck residual layers, twice as many as ResNet-50, 42.5 M "
            "parameters, from ImageNet.",
            "ResNet-50 with more patience: deeper, slower, a little surer.",
            "He et al. 2016: Deep Residual Learning for Image Recognition",
        ),
        "vgg16": _variation(
            "VGG-16",
            "Thirteen plain convolutions in five stages, 14.7 M parameters, from ImageNet; "
            "global average pooling takes the place of its two large dense layers.",
            "Simple and heavy: nothing but small filters, one after another.",
            "Simonyan & Zisserman 2014: Very Deep Convolutional Networks for Large-Scale Image "
            "Recognition",
        ),
        "densenet121": _variation(
            "DenseNet-121",
            "Four dense blocks whose layers see the outputs of all before them, 7.0 M "
            "parameters, from ImageNet.",
            "Every layer sees what all layers before it found, so that nothing is looked for "
            "twice.",
            "Huang et al. 2017: Densely Connected Convolutional Networks",
        ),
    },
)
