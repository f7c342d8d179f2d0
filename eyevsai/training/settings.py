"""Settings of training that torch families share: optimizer, regularisation and device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice, Detail, Doc, NotLogged, Range, Search, Settings, When
from eyevsai.data.settings import CROP_MARGIN, AugmentationSettings
from eyevsai.training.image_sizes import ImageSizes

BATCH_SIZE_DOC = "Images per optimizer step; at most those of the train split."
MAX_EPOCHS = 10_000
MEMORY_EFFICIENT_FACTOR = 4  # multiplies the micro-batches of a batch
RECOVERY_LR_RATIO = 0.3  # multiplies the learning rate for a network that is trained already


@dataclass(frozen=True)
class LearningSettings(Settings):
    """Settings that all families share."""

    PANEL: ClassVar[str] = "Training"
    SMALLEST_DEFAULT: ClassVar[int] = 32  # image size below which small images are enlarged

    image_size: Annotated[
        int, Range(32, 512), Doc("Side of the square model input, in pixels.")
    ] = 64
    class_weights: Annotated[
        bool, Detail(), Doc("Weight classes by their inverse frequency in the train split.")
    ] = False


@dataclass(frozen=True)
class OptimizationSettings(LearningSettings):
    """Settings of time budget, optimizer, LR schedule, loss and early stopping."""

    minutes: Annotated[
        float | None,
        Range(0.05, 100_000),
        Detail(),
        Doc(
            "Time budget of the run in minutes: epochs, and the image size if it is not set, "
            "follow from a measurement, and the learning rate ends with the time."
        ),
    ] = None
    batch_size: Annotated[
        int, Range(2, 4096), Search(Choice((32, 64, 128))), Doc(BATCH_SIZE_DOC)
    ] = 64
    grad_accum_steps: Annotated[
        int, Range(1, 64), Detail(), Doc("Micro-batches per batch; must divide --batch-size.")
    ] = 1
    optimizer: Annotated[
        str,
        Choice(("adamw", "adam", "sgd", "muon")),
        Search(Choice(("adamw", "adam", "sgd", "muon"))),
        Doc(
            "adamw (Loshchilov & Hutter 2019), adam (Kingma & Ba 2015), sgd with Nesterov "
            "momentum, or muon (Jordan et al. 2024) for convolutions and adamw for the rest."
        ),
    ] = "adamw"
    lr: Annotated[
        float,
        Range(1e-6, 1.0, log=True),
        Search(Range(1e-4, 1e-1, log=True)),
        Doc("Peak learning rate."),
    ] = 3e-3
    momentum: Annotated[
        float,
        Range(0, 0.999),
        When("optimizer", ("sgd", "muon")),
        Doc("Momentum; sgd and muon only."),
    ] = 0.9
    weight_decay: Annotated[
        float,
        Range(0, 1),
        Search(Range(1e-5, 1e-1, log=True)),
        Doc("Weight decay; not applied to biases and normalisation."),
    ] = 0.02
    schedule: Annotated[
        str,
        Choice(("cosine", "step", "plateau", "constant")),
        Doc("LR schedule after the warm-up."),
    ] = "cosine"
    warmup_epochs: Annotated[
        float,
        Range(0, 100),
        Doc("Epochs of linear warm-up from 0; at most a fifth of the epochs."),
    ] = 2.0
    min_lr_ratio: Annotated[
        float, Range(0, 1), Detail(), Doc("Minimum learning rate, as a share of --lr.")
    ] = 0.001
    decay_epochs: Annotated[
        int,
        Range(1, 10_000),
        When("schedule", ("step",)),
        Doc("schedule=step: epochs between drops; a third of the epochs if it is not less."),
    ] = 10
    decay_rate: Annotated[
        float,
        Range(0.01, 1),
        When("schedule", ("step", "plateau")),
        Doc("schedule=step and plateau: factor of the rate at a drop."),
    ] = 0.1
    plateau_patience: Annotated[
        int,
        Range(1, 1000),
        When("schedule", ("plateau",)),
        Doc(
            "schedule=plateau: epochs without a lower valid/loss before a drop, with images of the "
            "full size."
        ),
    ] = 3
    label_smoothing: Annotated[
        float,
        Range(0, 0.5),
        Search(Range(0.0, 0.2)),
        Doc("Share of each label spread over all classes (Szegedy et al. 2016)."),
    ] = 0.1
    clip_grad: Annotated[
        float, Range(0, 1000), Detail(), Doc("Maximum norm of the gradient; 0 does not clip.")
    ] = 1.0
    patience: Annotated[
        int,
        Range(0, 10_000),
        Doc(
            "Stop after this many epochs without a better valid/accuracy; 0 never stops early. "
            "Epochs count once images have the full size and, in transfer, the last stage is "
            "unfrozen."
        ),
    ] = 15


@dataclass(frozen=True)
class RegularizationSettings(Settings):
    """Settings of regularisation against overfitting."""

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
        Detail(),
        Doc("Probability of mixing a batch; with both methods on, one is drawn at random."),
    ] = 0.5
    ema_decay: Annotated[
        float,
        Range(0, 0.99999),
        Doc(
            "Decay of the EMA of the weights, which is evaluated and saved in their place; "
            "warmed up; 0 is off."
        ),
    ] = 0.0
    dropout_warmup_epochs: Annotated[
        float,
        Range(0, 10_000),
        Detail(),
        Doc(
            "Epochs over which dropout rises from 0 (Morerio et al. 2017), at most all epochs; 0 "
            "is off."
        ),
    ] = 0.0
    tta_flip: Annotated[
        bool, Detail(), Doc("Average the predictions of image and mirror image (TTA).")
    ] = False


@dataclass(frozen=True)
class ThreadSettings(Settings):
    """Setting of the CPU threads."""

    PANEL: ClassVar[str] = "Device"

    threads: Annotated[
        int, Range(0, 1024), NotLogged(), Doc("CPU threads of this process; 0 uses one per core.")
    ] = 0


@dataclass(frozen=True)
class DeviceSettings(ThreadSettings):
    """Settings of device, precision and memory."""

    device: Annotated[
        str,
        Choice(("auto", "cpu", "cuda", "mps")),
        Detail(),
        Doc("auto selects CUDA, else MPS, else the CPU."),
    ] = "auto"
    precision: Annotated[
        str,
        Choice(("auto", "float32", "bfloat16", "float16")),
        Detail(),
        Doc("Precision of training steps; auto selects the fastest that the hardware supports."),
    ] = "auto"
    memory_efficient: Annotated[
        bool,
        Detail(),
        Doc(
            "Use four times as many micro-batches, and gradient checkpointing where supported: "
            "half the memory or less."
        ),
    ] = False
    devices: Annotated[
        int,
        Range(1, 1024),
        Detail(),
        Doc("GPUs, or processes on a CPU, that share each batch (DistributedDataParallel)."),
    ] = 1
    channels_last: Annotated[
        bool, Detail(), Doc("Use the N,H,W,C memory format, faster on CPUs.")
    ] = True


@dataclass(frozen=True)
class TrainingSettings(
    DeviceSettings, RegularizationSettings, AugmentationSettings, OptimizationSettings
):
    """Settings that all torch families inherit."""

    crop_margin: Annotated[
        float,
        Range(1, 2),
        Detail(),
        Doc(
            "Short side of a resized image relative to --image-size. Predictions use its centre; 1 "
            "uses the whole short side."
        ),
    ] = CROP_MARGIN
    initial_scale: Annotated[
        float,
        Range(0.25, 1),
        Doc(
            "Size of the first training images relative to --image-size; it rises linearly over "
            "the first three quarters of the training, in multiples of 16 px (progressive "
            "resizing); 1 is off. With a pretrained backbone, the training is that of the "
            "fine-tuning."
        ),
    ] = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        minimum = 2 * self.num_micro_batches * self.devices
        if self.devices > 1 and self.batch_size < minimum:
            raise UserError(
                f"--batch-size {self.batch_size} is too small for --devices {self.devices}: each "
                f"computes {self.num_micro_batches} micro-batches of two images or more. Choose at "
                f"least {minimum}."
            )

    @property
    def phases(self) -> tuple[int, ...]:
        """Epochs of each part of the training that has an LR schedule of its own.

        Raises:
            TypeError: the subclass does not implement it.
        """
        raise TypeError(f"{type(self).__name__} does not implement phases.")

    @property
    def image_sizes(self) -> ImageSizes:
        """Sizes of the training images."""
        return ImageSizes(self.image_size, self.initial_scale)

    @property
    def num_micro_batches(self) -> int:
        """Initial number of micro-batches per batch and device; the trainer may increase it."""
        return self.grad_accum_steps * (MEMORY_EFFICIENT_FACTOR if self.memory_efficient else 1)


@dataclass(frozen=True)
class NetworkSettings(TrainingSettings):
    """Settings of families that train the whole network in all epochs.

    The defaults are those with the highest accuracy per minute: docs/decisions/039-muon.md.
    """

    PANEL: ClassVar[str] = "Training"
    LEGACY: ClassVar[Mapping[str, Any]] = {
        "whitening": False,
        "initial_scale": 1.0,
        "crop_share": 1.0,
        "translate": 0.0,
        "noise": 0.0,
    }

    optimizer: str = "muon"
    lr: float = 6e-3
    weight_decay: float = 0.05
    epochs: Annotated[int, Range(1, MAX_EPOCHS), Doc("Passes over the train split.")] = 30
    initial_scale: float = 0.5
    crop_scale: float = 0.35
    crop_share: float = 0.5
    translate: float = 0.15
    noise: float = 0.03
    whitening: Annotated[
        bool,
        Detail(),
        Doc(
            "Filters of the first convolution that decorrelate patches of the train images; not "
            "trained if there are enough of them (Jordan 2024)."
        ),
    ] = True

    @property
    def phases(self) -> tuple[int, ...]:
        return (self.epochs,)

    def recovery_settings(self, epochs: int) -> Self:
        """Return settings to retrain a modified network for `epochs`.

        A trained network needs a lower LR and images like those that it was trained on last. It
        starts from its own filters, and all of its weights are trained.
        """
        return replace(
            self,
            epochs=epochs,
            whitening=False,
            initial_scale=1.0,
            crop_share=1.0 if self.crop_share == 1 else 0.0,
            minutes=None,
            lr=max(self.lr * RECOVERY_LR_RATIO, 1e-6),
            devices=1,
            warmup_epochs=min(self.warmup_epochs, epochs / 5),
        )


@dataclass(frozen=True)
class UnfreezingSettings(TrainingSettings):
    """Settings of families whose networks start with a pretrained backbone, frozen at first.

    Tuning does not search augmentation, since each trial would then compute its own features, nor
    mixing, since fine-tuning has too few epochs for it.
    """

    PANEL: ClassVar[str] = "Fine-tuning"

    NOT_SEARCHED: ClassVar[frozenset[str]] = frozenset(
        {"crop_scale", "rotation", "random_erasing", "mixup", "cutmix"}
    )

    freeze_epochs: Annotated[
        int,
        Range(0, 10_000),
        Search(Range(5, 30)),
        Doc(
            "Epochs that train the head on cached features of the frozen backbone; 0 for none. A "
            "linear head is solved in one."
        ),
    ] = 10
    fine_tune_epochs: Annotated[
        int,
        Range(0, MAX_EPOCHS),
        Search(Range(1, 10)),
        Doc("Epochs after --freeze-epochs, which train the backbone, too."),
    ] = 8
    unfreezing: Annotated[
        str,
        Choice(("together", "gradual")),
        Search(Choice(("together", "gradual"))),
        Doc(
            "How fine-tuning unfreezes the backbone. together: all --unfreeze-stages in its first "
            "epoch (Kumar et al. 2022); gradual: stage by stage from the top (Howard & Ruder 2018)."
        ),
    ] = "together"
    unfreeze_stages: Annotated[
        int,
        Range(1, 5),
        Search(Choice((1, 2, 3, 4, 5))),
        Doc("Number of the backbone's five stages that are unfrozen in the end, from the top."),
    ] = 4
    fine_tune_lr: Annotated[
        float,
        Range(1e-7, 1.0, log=True),
        Search(Range(1e-5, 1e-2, log=True)),
        Doc("Peak learning rate of head and top stage during fine-tuning."),
    ] = 1e-3
    layer_decay: Annotated[
        float,
        Range(0.01, 1.0),
        Search(Range(0.2, 1.0)),
        Doc("Factor of the learning rate from each stage to the one below (Howard & Ruder 2018)."),
    ] = 0.7
    wise_ft: Annotated[
        bool,
        Doc(
            "At the end, average the fine-tuned weights with those before fine-tuning, with the "
            "share that has the highest valid accuracy (WiSE-FT, Wortsman et al. 2022)."
        ),
    ] = True
    feature_views: Annotated[
        int,
        Range(1, 64),
        Doc(
            "Views per image whose features are cached for the frozen epochs: the image as it is, "
            "then augmented views."
        ),
    ] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.epochs:
            raise UserError(
                "--freeze-epochs 0 with --fine-tune-epochs 0 trains nothing. Set one of them to 1 "
                "or more."
            )
        if not self.fine_tune_epochs and (self.mixup or self.cutmix):
            raise UserError(
                "--mixup and --cutmix require fine-tuning, since frozen epochs train on features. "
                "Omit them, or set --fine-tune-epochs."
            )

    @property
    def solves_head(self) -> bool:
        """True if the head is solved on the frozen features, instead of trained by steps."""
        return False

    @property
    def averages_weights(self) -> bool:
        """True if the weights before and after fine-tuning are averaged."""
        return self.wise_ft and self.frozen_epochs > 0 and self.fine_tune_epochs > 0

    @property
    def frozen_epochs(self) -> int:
        """Epochs that train the head alone: `freeze_epochs`, or one if the head is solved."""
        return min(self.freeze_epochs, 1) if self.solves_head else self.freeze_epochs

    @property
    def epochs(self) -> int:
        """Passes over the train split: frozen and fine-tuning epochs."""
        return self.frozen_epochs + self.fine_tune_epochs

    @property
    def phases(self) -> tuple[int, ...]:
        frozen = 0 if self.solves_head else self.freeze_epochs
        return tuple(filter(None, (frozen, self.fine_tune_epochs)))

    def recovery_settings(self, epochs: int) -> Self:
        """Return settings to retrain a modified network for `epochs`: none frozen, one device."""
        return replace(
            self,
            freeze_epochs=0,
            minutes=None,
            fine_tune_epochs=epochs,
            lr=self.fine_tune_lr,
            devices=1,
            warmup_epochs=min(self.warmup_epochs, epochs / 5),
        )
