"""Settings and variations of the transfer family. Free of torch imports, to keep help fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand, is_file
from eyevsai.core.settings import Choice, Detail, Doc, Range, Search
from eyevsai.models.base import Family, Variation
from eyevsai.training.settings import BATCH_SIZE_DOC, UnfreezingSettings

INTERPOLATIONS = ("bilinear", "bicubic")
MAX_UNITS = 8192
IMAGENET, NONE = "imagenet", "none"  # values of --weights that are no file
OFFLINE = "offline"  # the extra with the weights of efficientnet_lite0


@dataclass(frozen=True)
class TransferSettings(UnfreezingSettings):
    """Settings of all variations: a pretrained backbone and a new head."""

    PANEL: ClassVar[str] = "transfer"
    # Photographs of 119 px are classified better at 224 px than at 192 px, and there better than
    # at 128 px: docs/decisions/044-fine-tuning.md.
    SMALLEST_DEFAULT: ClassVar[int] = 224
    LEGACY: ClassVar[Mapping[str, Any]] = {
        "head_solver": "sgd",
        "unfreezing": "gradual",
        "wise_ft": False,
    }

    image_size: int = 224
    label_smoothing: float = 0.0
    batch_size: Annotated[
        int, Range(2, 4096), Search(Choice((16, 32, 64))), Doc(BATCH_SIZE_DOC)
    ] = 32
    lr: Annotated[
        float,
        Range(1e-6, 1.0, log=True),
        Search(Range(1e-4, 1e-2, log=True)),
        Doc("Peak learning rate of the head while the backbone is frozen."),
    ] = 3e-3
    warmup_epochs: float = 1.0
    ema_decay: float = 0.99
    weights: Annotated[
        str,
        Doc(
            "Initial weights of the backbone: imagenet, none (random), or a file: safetensors, "
            "or a state dict or checkpoint of torch.save."
        ),
    ] = "imagenet"
    mean: Annotated[
        str | None,
        Detail(),
        Doc(
            "Pixel mean in the training of --weights PATH: red, green, blue in 0..1, such as "
            "0.5,0.5,0.5; by default from a JSON file next to PATH, else that of the backbone."
        ),
    ] = None
    std: Annotated[str | None, Detail(), Doc("Pixel standard deviation, like --mean.")] = None
    interpolation: Annotated[
        str | None,
        Choice(INTERPOLATIONS),
        Detail(),
        Doc("Interpolation of resized images in the training of --weights, like --mean."),
    ] = None
    dense_units: Annotated[
        str,
        Search(Choice(("none", "256", "512", "512,256"))),
        Doc(
            "Units of the head's hidden layers, separated by commas, each with batch "
            "normalisation and dropout; or none, for a linear head."
        ),
    ] = "none"
    head_solver: Annotated[
        str,
        Choice(("auto", "sgd")),
        Doc(
            "How the head is trained on frozen features. auto: a linear head by L-BFGS, with the "
            "L2 regularisation that has the lowest valid/loss; others, and with sgd all, by steps "
            "of --optimizer."
        ),
    ] = "auto"
    dropout: Annotated[
        float, Range(0, 0.9), Search(Range(0.0, 0.5)), Doc("Dropout in the head.")
    ] = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = [] if self.dense_units == "none" else self.dense_units.split(",")
        if not all(part.strip().isdecimal() and 1 <= int(part) <= MAX_UNITS for part in parts):
            raise UserError(
                f"--dense-units takes numbers of 1 to {MAX_UNITS} separated by commas, such as "
                f"512,256, or none, not {self.dense_units!r}."
            )
        for name in ("mean", "std"):
            parse_color(f"--{name}", getattr(self, name))

    @property
    def solves_head(self) -> bool:
        return self.head_solver == "auto" and self.dense_units == "none"

    @property
    def units_of_layers(self) -> tuple[int, ...]:
        """Units of each hidden layer, parsed from `dense_units`; empty for none."""
        return () if self.dense_units == "none" else tuple(map(int, self.dense_units.split(",")))


def check_weights(choice: str) -> None:
    """Raise UserError if `--weights` is neither a known word nor a file."""
    if choice not in (IMAGENET, NONE) and not is_file(expand(choice)):
        raise UserError(
            f"--weights {choice} is not a file. Use {IMAGENET}, {NONE}, or the path of a weights "
            "file."
        )


def parse_color(name: str, text: str | None) -> tuple[float, ...] | None:
    """Return three numbers of 0 to 1, separated by commas, as a tuple; None for None.

    Args:
        name: name of the value in the message; if it ends in `std`, 0 is invalid.
        text: such as `0.5,0.5,0.5`.

    Raises:
        UserError: the text has another form, or a number is out of range.
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
            f"{name} takes three numbers of 0 to 1 separated by commas, such as 0.5,0.5,0.5, not "
            f"{text!r}."
        )
    return values


# The defaults fit the budget of a CPU, measured on two cores (benchmarks/RESULTS.md). A GPU allows
# images of the size that the weights were trained with, and unfreezing of all stages; this preset
# was not measured on one.
GPU = {
    "batch_size": 64,
    "ema_decay": 0.999,
    "unfreeze_stages": 5,
    "fine_tune_epochs": 30,
    "feature_views": 8,
    "auto_augment": "trivial",
}
FINE_TUNING = (
    "Kumar et al. 2022: Fine-Tuning can Distort Pretrained Features and Underperform "
    "Out-of-Distribution"
)


def _variation(title: str, technical: str, simple: str, paper: str, **gpu: int) -> Variation:
    schedule = (
        "The head is trained first, on the frozen backbone; then it is fine-tuned together with "
        "the upper stages of the backbone."
    )
    presets = {"gpu": {**GPU, **gpu}}
    return Variation(
        title, f"{technical} {schedule}", simple, TransferSettings, presets, (paper, FINE_TUNING)
    )


FAMILY = Family(
    name="transfer",
    title="Networks pretrained on ImageNet, trained on new classes",
    learner="eyevsai.models.transfer.network:TransferLearner",
    extras={OFFLINE: "ImageNet weights of efficientnet_lite0 without a download"},
    variations={
        "mobilenet_v2": _variation(
            "MobileNetV2",
            "Inverted residuals of depthwise separable convolutions, 2.2 M parameters, pretrained "
            "on ImageNet.",
            "A small network, trained on a million pictures, that only has to learn new classes.",
            "Sandler et al. 2018: MobileNetV2: Inverted Residuals and Linear Bottlenecks",
        ),
        "efficientnet_lite0": _variation(
            "EfficientNet-Lite0",
            "EfficientNet without squeeze-and-excitation and with ReLU6, 3.4 M parameters, "
            "pretrained on ImageNet.",
            "Made for phones: nearly as accurate as large networks, at a fraction of the work.",
            "Tan & Le 2019: EfficientNet: Rethinking Model Scaling for Convolutional Neural "
            "Networks",
        ),
        "efficientnet_b0": _variation(
            "EfficientNet-B0",
            "Inverted residuals with squeeze-and-excitation, scaled evenly in depth, width and "
            "size, 4.0 M parameters, pretrained on ImageNet.",
            "Depth, width and picture size grow together, so that none of them limits accuracy.",
            "Tan & Le 2019: EfficientNet: Rethinking Model Scaling for Convolutional Neural "
            "Networks",
        ),
        "efficientnet_b1": _variation(
            "EfficientNet-B1",
            "EfficientNet-B0, deeper and for larger pictures, 6.5 M parameters, pretrained on "
            "ImageNet.",
            "EfficientNet-B0 with more layers, for larger pictures.",
            "Tan & Le 2019: EfficientNet: Rethinking Model Scaling for Convolutional Neural "
            "Networks",
            image_size=240,
        ),
        "resnet50": _variation(
            "ResNet-50",
            "Four stages of bottleneck residual layers, 23.5 M parameters, pretrained on ImageNet.",
            "The network that most others are compared with.",
            "He et al. 2016: Deep Residual Learning for Image Recognition",
        ),
        "resnet101": _variation(
            "ResNet-101",
            "Four stages of bottleneck residual layers, twice as many as ResNet-50, 42.5 M "
            "parameters, pretrained on ImageNet.",
            "ResNet-50 with more layers: slower, and a little more accurate.",
            "He et al. 2016: Deep Residual Learning for Image Recognition",
        ),
        "vgg16": _variation(
            "VGG-16",
            "Thirteen plain convolutions in five stages, 14.7 M parameters, pretrained on "
            "ImageNet; global average pooling replaces its two large dense layers.",
            "Simple and large: only small filters, one after another.",
            "Simonyan & Zisserman 2014: Very Deep Convolutional Networks for Large-Scale Image "
            "Recognition",
        ),
        "densenet121": _variation(
            "DenseNet-121",
            "Four dense blocks whose layers read the outputs of all earlier ones, 7.0 M "
            "parameters, pretrained on ImageNet.",
            "Every layer uses the features of all earlier layers, so that none has to be learned "
            "twice.",
            "Huang et al. 2017: Densely Connected Convolutional Networks",
        ),
    },
)
