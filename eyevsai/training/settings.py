"""The settings that every torch family shares: one training run from the optimizer to the
device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice, Doc, Range, Search, Settings
from eyevsai.data.settings import AugmentationSettings

MEMORY_EFFICIENT_PARTS = 4

RECOVERY = 0.3  # of the learning rate, for a network that has learned already


@dataclass(frozen=True)
class LearningSettings(Settings):
    """What every family is told of how to learn."""

    PANEL: ClassVar[str] = "Training"

    image_size: Annotated[
        int, Range(32, 512), Doc("Side of the square that the model sees, in pixels.")
    ] = 64
    class_weights: Annotated[
        bool, Doc("Weigh classes of the train split by the inverse of their frequency.")
    ] = False


@dataclass(frozen=True)
class OptimizationSettings(LearningSettings):
    """How the weights are moved."""

    batch_size: Annotated[
        int, Range(2, 4096), Search(Choice((32, 64, 128))), Doc("Images per optimizer step.")
    ] = 64
    grad_accum_steps: Annotated[
        int, Range(1, 64), Doc("Parts that a batch is computed in; must divide --batch-size.")
    ] = 1
    optimizer: Annotated[
        str,
        Choice(("adamw", "adam", "sgd")),
        Search(Choice(("adamw", "adam", "sgd"))),
        Doc(
            "adamw (Loshchilov & Hutter 2019), adam (Kingma & Ba 2015) or sgd with Nesterov "
            "momentum."
        ),
    ] = "adamw"
    lr: Annotated[
        float,
        Range(1e-6, 1.0, log=True),
        Search(Range(1e-4, 1e-1, log=True)),
        Doc("Peak learning rate."),
    ] = 3e-3
    momentum: Annotated[float, Range(0, 0.999), Doc("Momentum; sgd only.")] = 0.9
    weight_decay: Annotated[
        float,
        Range(0, 1),
        Search(Range(1e-5, 1e-1, log=True)),
        Doc("Weight decay; never applied to biases and normalisation."),
    ] = 0.02
    schedule: Annotated[
        str,
        Choice(("cosine", "step", "plateau", "constant")),
        Doc("Course of the learning rate after the warm-up."),
    ] = "cosine"
    warmup_epochs: Annotated[
        float, Range(0, 100), Doc("Epochs over which the learning rate rises from 0.")
    ] = 2.0
    min_lr_ratio: Annotated[
        float, Range(0, 1), Doc("Share of --lr below which no schedule goes.")
    ] = 0.001
    decay_epochs: Annotated[int, Range(1, 10_000), Doc("schedule=step: epochs between drops.")] = 10
    decay_rate: Annotated[
        float, Range(0.01, 1), Doc("schedule=step and plateau: what a drop multiplies the rate by.")
    ] = 0.1
    plateau_patience: Annotated[
        int,
        Range(1, 1000),
        Doc("schedule=plateau: epochs without a lower valid/loss before a drop."),
    ] = 3
    label_smoothing: Annotated[
        float,
        Range(0, 0.5),
        Search(Range(0.0, 0.2)),
        Doc("Share of each label spread over all classes (Szegedy et al. 2016)."),
    ] = 0.1
    clip_grad: Annotated[
        float, Range(0, 1000), Doc("Largest norm of the gradient; 0 does not clip.")
    ] = 1.0
    patience: Annotated[
        int,
        Range(0, 10_000),
        Doc("Stop after this many epochs without a better valid/accuracy; 0 never stops early."),
    ] = 15


@dataclass(frozen=True)
class RegularizationSettings(Settings):
    """What keeps a network from learning its images by heart."""

    PANEL: ClassVar[str] = "Regularisation"

    mixup: Annotated[
        float,
        Range(0, 10),
        Search(Range(0.0, 0.4)),
        Doc("Alpha of mixup (Zhang et al. 2018), which blends images and labels; 0 is off."),
    ] = 0.0
    cutmix: Annotated[
        float,
        Range(0, 10),
        Search(Choice((0.0, 1.0))),
        Doc("Alpha of CutMix (Yun et al. 2019), which pastes a part of another image; 0 is off."),
    ] = 0.0
    mixup_prob: Annotated[
        float,
        Range(0, 1),
        Doc("Share of the batches that are mixed; with both, one of the two is drawn."),
    ] = 0.5
    ema_decay: Annotated[
        float,
        Range(0, 0.99999),
        Doc(
            "Decay of the moving average of the weights, which is then evaluated and saved; 0 "
            "is off; lower at first."
        ),
    ] = 0.0
    dropout_warmup_epochs: Annotated[
        float,
        Range(0, 10_000),
        Doc("Epochs over which dropout rises from 0 (Morerio et al. 2017); 0 is off."),
    ] = 0.0
    tta_flip: Annotated[bool, Doc("Average the predictions for an image and its mirror image.")] = (
        False
    )


@dataclass(frozen=True)
class ThreadSettings(Settings):
    """How much of the CPU is used."""

    PANEL: ClassVar[str] = "Device"

    threads: Annotated[
        int, Range(0, 1024), Doc("CPU threads of this process; 0 takes one per core.")
    ] = 0


@dataclass(frozen=True)
class DeviceSettings(ThreadSettings):
    """What computes, and in which number format."""

    device: Annotated[
        str, Choice(("auto", "cpu", "cuda", "mps")), Doc("auto takes CUDA, else MPS, else the CPU.")
    ] = "auto"
    precision: Annotated[
        str,
        Choice(("auto", "float32", "bfloat16", "float16")),
        Doc("Number format of training steps; auto takes what the device does fast."),
    ] = "auto"
    memory_efficient: Annotated[
        bool,
        Doc(
            "Compute each batch in four times as many parts, and again what can be: half the "
            "memory or less."
        ),
    ] = False
    devices: Annotated[
        int,
        Range(1, 1024),
        Doc("GPUs, or on a CPU processes, that share each batch (DistributedDataParallel)."),
    ] = 1
    channels_last: Annotated[bool, Doc("Keep images in memory as N,H,W,C, which CPUs prefer.")] = (
        True
    )


@dataclass(frozen=True)
class TrainingSettings(
    DeviceSettings, RegularizationSettings, AugmentationSettings, OptimizationSettings
):
    """What every torch family inherits."""

    def __post_init__(self) -> None:
        super().__post_init__()
        least = 2 * self.parts * self.devices
        if self.devices > 1 and self.batch_size < least:
            raise UserError(
                f"--devices {self.devices} share batches of --batch-size {self.batch_size}, and "
                f"each has {self.parts} parts of two images or more: choose at least {least}."
            )

    @property
    def parts(self) -> int:
        """Parts that a batch is computed in while memory suffices."""
        return self.grad_accum_steps * (MEMORY_EFFICIENT_PARTS if self.memory_efficient else 1)


@dataclass(frozen=True)
class NetworkSettings(TrainingSettings):
    """What a family inherits whose networks are trained as a whole, from the first epoch to the
    last.
    """

    epochs: Annotated[int, Range(1, 10_000), Doc("Passes over the training images.")] = 30

    def recovery_settings(self, epochs: int) -> Self:
        """These settings for a network that has learned already, and was changed."""
        return replace(
            self,
            epochs=epochs,
            lr=max(self.lr * RECOVERY, 1e-6),
            devices=1,
            warmup_epochs=min(self.warmup_epochs, epochs / 5),
        )


@dataclass(frozen=True)
class UnfreezingSettings(TrainingSettings):
    """What a family inherits whose networks begin with a trained base, which is frozen at first.

    Its augmentation is not searched: each trial would need features of its own. Nor is mixing,
    which a few epochs of fine-tuning have no time for.
    """

    NOT_SEARCHED: ClassVar[frozenset[str]] = frozenset(
        {"crop_scale", "rotation", "random_erasing", "mixup", "cutmix"}
    )

    freeze_epochs: Annotated[
        int,
        Range(0, 10_000),
        Search(Range(5, 30)),
        Doc("Epochs of the head alone, on features of the frozen base that are computed once."),
    ] = 10
    fine_tune_epochs: Annotated[
        int,
        Range(0, 10_000),
        Search(Range(1, 10)),
        Doc(
            "Epochs after that, over which the base is unfrozen stage by stage from the top "
            "(Howard & Ruder 2018)."
        ),
    ] = 8
    unfreeze_stages: Annotated[
        int,
        Range(1, 5),
        Search(Choice((1, 2, 3, 4, 5))),
        Doc("Of the base's five stages, how many are unfrozen in the end."),
    ] = 3
    fine_tune_lr: Annotated[
        float,
        Range(1e-7, 1.0, log=True),
        Search(Range(1e-5, 1e-2, log=True)),
        Doc("Peak learning rate of head and top stage while fine-tuning."),
    ] = 5e-4
    layer_decay: Annotated[
        float,
        Range(0.01, 1.0),
        Search(Range(0.2, 1.0)),
        Doc("What each stage further down multiplies the learning rate by (Howard & Ruder 2018)."),
    ] = 0.5
    feature_views: Annotated[
        int,
        Range(1, 64),
        Doc("Augmented views of each image whose features are kept for the frozen epochs."),
    ] = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.epochs:
            raise UserError(
                "--freeze-epochs 0 with --fine-tune-epochs 0 trains nothing. Give one of them."
            )
        if not self.fine_tune_epochs and (self.mixup or self.cutmix):
            raise UserError(
                "--mixup and --cutmix mix images, which only fine-tuning sees: leave them out, "
                "or give --fine-tune-epochs."
            )

    @property
    def epochs(self) -> int:
        """Passes over the training images, frozen and fine-tuning together."""
        return self.freeze_epochs + self.fine_tune_epochs

    def recovery_settings(self, epochs: int) -> Self:
        """These settings for a network that has learned already, and was changed: nothing of it is
        frozen.
        """
        return replace(
            self,
            freeze_epochs=0,
            fine_tune_epochs=epochs,
            lr=self.fine_tune_lr,
            devices=1,
            warmup_epochs=min(self.warmup_epochs, epochs / 5),
        )
