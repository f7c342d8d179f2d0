"""Settings and variations of the deep_v2 family. Free of torch imports, to keep help fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice, Detail, Doc, NotLogged, Range, Search, When
from eyevsai.models.base import Family, Variation
from eyevsai.training.settings import NetworkSettings

MAX_LAYERS = 64  # per stage
QUARTERED = 64  # image size from which the stem quarters the resolution
MIN_SIDE = 4  # positions of the last stage along a side


@dataclass(frozen=True)
class DeepV2Settings(NetworkSettings):
    """Settings of the resnet variation: residual stages at falling resolution, with attention."""

    PANEL: ClassVar[str] = "deep_v2"
    LEGACY: ClassVar[Mapping[str, Any]] = {**NetworkSettings.LEGACY, "downsampling": "full"}

    image_size: int = 96
    epochs: int = 64
    random_erasing: float = 0.1
    width: Annotated[
        int,
        Range(4, 256),
        Search(Choice((32, 48, 64))),
        Doc(
            "Channels of the first stage; they double in each later residual stage, up to four "
            "times."
        ),
    ] = 64
    layers: Annotated[str, Doc("Layers of each stage, separated by commas.")] = "1,1,1,1"
    use_se: Annotated[
        bool,
        Search(Choice((True, False))),
        Doc("Squeeze-and-excitation in each layer (Hu et al. 2018)."),
    ] = True
    use_cbam: Annotated[
        bool,
        Search(Choice((True, False))),
        Doc("Channel and spatial attention after the last stage (CBAM, Woo et al. 2018)."),
    ] = True
    attention: Annotated[
        str,
        Choice(("none", "self")),
        Search(Choice(("none", "self"))),
        Doc("self: self-attention over positions after the last stage (Vaswani et al. 2017)."),
    ] = "none"
    attention_reduction: Annotated[
        int, Range(1, 64), Detail(), Doc("Channel reduction ratio inside SE and CBAM.")
    ] = 8
    attention_heads: Annotated[
        int,
        Range(1, 32),
        When("attention", ("self",)),
        Doc("attention=self: number of heads, which split the channels."),
    ] = 4
    downsampling: Annotated[
        str,
        Choice(("auto", "full")),
        Detail(),
        Doc(
            "auto: the stem halves images below 64 px, else quarters them, and strides that would "
            "leave less than 4 x 4 positions to the last stage are omitted; full: the stem "
            "quarters images of any size, and each later stage halves them."
        ),
    ] = "auto"
    separable: Annotated[
        bool,
        Detail(),
        Doc("Depthwise separable convolutions (Chollet 2017): fewer weights and operations."),
    ] = False
    stochastic_depth: Annotated[
        float,
        Range(0, 0.9),
        Search(Range(0.0, 0.3)),
        Doc(
            "Rate at which images skip the last layer; earlier layers have linearly lower rates "
            "(Huang et al. 2016)."
        ),
    ] = 0.05
    dropout: Annotated[
        float, Range(0, 0.9), Search(Range(0.0, 0.5)), Doc("Dropout before the classifier.")
    ] = 0.2
    gradient_checkpointing: Annotated[
        bool,
        NotLogged(),
        Doc(
            "Recompute stages in the backward pass instead of storing them, to save memory (Chen "
            "et al. 2016)."
        ),
    ] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = [part.strip() for part in self.layers.split(",")]
        if not all(part.isdecimal() and 1 <= int(part) <= MAX_LAYERS for part in parts):
            raise UserError(
                f"--layers takes numbers of 1 to {MAX_LAYERS} separated by commas, such as "
                f"2,2,2,2, not {self.layers!r}."
            )
        if len(parts) != self.num_stages():
            raise UserError(
                f"--layers {self.layers} has {len(parts)} stages; this variation has "
                f"{self.num_stages()}."
            )

    @classmethod
    def num_stages(cls) -> int:
        """Return the number of stages, which is that of the variation's default `layers`."""
        return cls.layers.count(",") + 1

    @property
    def layers_of_stages(self) -> tuple[int, ...]:
        """Number of layers of each stage, parsed from `layers`."""
        return tuple(map(int, self.layers.split(",")))

    @property
    def stem_stride(self) -> int:
        """Factor by which the stem shrinks images."""
        return 2 if self.downsampling == "auto" and self.image_size < QUARTERED else 4

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of each stage."""
        side, strides = self.image_size / self.stem_stride, [1]
        for _ in range(1, self.num_stages()):
            is_halved = self.downsampling == "full" or side / 2 >= MIN_SIDE
            strides.append(2 if is_halved else 1)
            side /= strides[-1]
        return tuple(strides)

    @property
    def recomputes(self) -> bool:
        """True if stages are recomputed in the backward pass."""
        return self.gradient_checkpointing or self.memory_efficient


@dataclass(frozen=True)
class DenseSettings(DeepV2Settings):
    """Settings of the densenet variation: each layer reads all earlier layers of its stage."""

    epochs: int = 56
    width: int = 32
    layers: str = "2,4,6,4"
    use_cbam: bool = False
    growth_rate: Annotated[
        int,
        Range(2, 128),
        Search(Choice((16, 32, 48))),
        Doc("Channels that each dense layer adds."),
    ] = 32


@dataclass(frozen=True)
class HybridSettings(DenseSettings):
    """Settings of the hybrid variation: residual, dense and residual stage, self-attention."""

    epochs: int = 58
    width: int = 64
    layers: str = "2,6,2"
    use_cbam: bool = True
    attention: str = "self"
    separable: bool = True


# The defaults fit the budget of a CPU, with channels in multiples of 16 to fill its SIMD registers.
# A GPU allows the sizes of the papers, about 25 M parameters; these presets were not measured on
# one. Its convolutions are not separable: depthwise ones leave most of a GPU idle.
GPU = {
    "image_size": 128,
    "batch_size": 128,
    "epochs": 200,
    "random_erasing": 0.2,
    "auto_augment": "trivial",
    "cutmix": 1.0,
    "mixup": 0.2,
    "ema_decay": 0.9995,
    "stochastic_depth": 0.1,
}

FAMILY = Family(
    name="deep_v2",
    title="Residual and dense networks with attention",
    learner="eyevsai.models.deep_v2.network:DeepV2Learner",
    variations={
        "resnet": Variation(
            title="Residual network",
            technical="Four stages of pre-activation residual layers, with squeeze-and-excitation "
            "in each layer and CBAM after the last stage.",
            simple="Every layer only learns a correction to its input, and attention emphasises "
            "the important parts of the picture.",
            settings=DeepV2Settings,
            presets={"gpu": {**GPU, "width": 80, "layers": "3,4,9,3"}},
            papers=(
                "He et al. 2016: Identity Mappings in Deep Residual Networks",
                "Hu et al. 2018: Squeeze-and-Excitation Networks",
                "Woo et al. 2018: CBAM: Convolutional Block Attention Module",
            ),
        ),
        "densenet": Variation(
            title="Dense network",
            technical="Four stages of bottleneck layers that each read the outputs of all earlier "
            "ones, with squeeze-and-excitation in each layer; transitions halve the channels "
            "between stages.",
            simple="Every layer uses the features of all earlier layers, so that none has to be "
            "learned twice.",
            settings=DenseSettings,
            presets={"gpu": {**GPU, "width": 96, "layers": "6,12,32,24", "growth_rate": 48}},
            papers=(
                "Huang et al. 2017: Densely Connected Convolutional Networks",
                "Hu et al. 2018: Squeeze-and-Excitation Networks",
            ),
        ),
        "hybrid": Variation(
            title="Hybrid network",
            technical="A residual, a dense and a residual stage of depthwise separable "
            "convolutions with squeeze-and-excitation and CBAM, and self-attention at the lowest "
            "resolution.",
            simple="Combines both ideas, and relates every part of the picture to every other "
            "part.",
            settings=HybridSettings,
            presets={
                "gpu": {
                    **GPU,
                    "width": 128,
                    "layers": "4,16,3",
                    "growth_rate": 64,
                    "separable": False,
                }
            },
            papers=(
                "He et al. 2016: Identity Mappings in Deep Residual Networks",
                "Huang et al. 2017: Densely Connected Convolutional Networks",
                "Vaswani et al. 2017: Attention Is All You Need",
                "Chollet 2017: Xception: Deep Learning with Depthwise Separable Convolutions",
            ),
        ),
    },
)
