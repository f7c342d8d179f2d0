"""The batches of an epoch: which images, what becomes of them, and which share of each this process
computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from eyevsai.core.errors import UserError
from eyevsai.data.augmentation import augment
from eyevsai.data.dataset import Split
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.seeding import derive_seed, make_generator
from eyevsai.training.mixup import mix_batch
from eyevsai.training.process_group import SingleProcess
from eyevsai.training.settings import TrainingSettings
from eyevsai.training.strategy import TrainingStrategy


@dataclass(frozen=True)
class MicroBatch:
    """A part of a batch that is computed at once; `number` counts the parts of the whole batch, of
    all ranks.
    """

    number: int
    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Batches:
    """The batches of a train split, all of whose draws are a function of seed, epoch and step,
    whoever asks.
    """

    train: Split
    strategy: TrainingStrategy
    settings: TrainingSettings
    preprocessing: Preprocessing
    seed: int
    group: SingleProcess
    device: torch.device
    num_classes: int

    def order(self, epoch: int) -> list[Tensor]:
        """The places of each batch's images in the split, N int64."""
        order = torch.randperm(len(self.train), generator=make_generator(self.seed, "order", epoch))
        least = 2 * self.settings.parts * self.group.size  # batch normalisation needs two images
        return [places for places in order.split(self.settings.batch_size) if len(places) >= least]

    def load(
        self, indices: Tensor, epoch: int, step: int, num_micro_batches: int
    ) -> tuple[Tensor, Iterator[MicroBatch]]:
        """Labels of the whole batch, N int64, or N,C where images were mixed; and the parts that
        are this process's.

        A batch is cut into `num_micro_batches` parts for each rank, or fewer, so that each has
        two images.
        """
        count, size = len(indices), self.group.size
        num_micro_batches = min(num_micro_batches, count // (2 * size))
        numbers = range(
            self.group.rank * num_micro_batches, (self.group.rank + 1) * num_micro_batches
        )
        # as `tensor_split` does: the first parts have one more
        each, more = divmod(count, size * num_micro_batches)
        rows = slice(
            *(number * each + min(number, more) for number in (numbers.start, numbers.stop))
        )
        inputs, labels = self._load_rows(indices, rows, epoch, step)
        own = zip(
            inputs.tensor_split(num_micro_batches),
            labels[rows].tensor_split(num_micro_batches),
            strict=True,
        )
        return labels, (
            MicroBatch(number, *pair) for number, pair in zip(numbers, own, strict=True)
        )

    def _load_rows(
        self, indices: Tensor, rows: slice, epoch: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """Inputs of what the epoch trains, of some rows, and labels of all."""
        generator = make_generator(self.seed, "augment", epoch, step)
        labels = self.train.labels[indices].to(self.device)
        features = self.strategy.features(epoch, indices, generator)
        if features is not None:
            return features[rows].to(self.device), labels
        images = list(self.train.images(indices.tolist()))
        # an image is mixed with one of any row
        mixing = bool(self.settings.mixup or self.settings.cutmix)
        drawn = slice(None) if mixing else rows
        batch = augment(
            images, self.settings, self.preprocessing, generator, self.device, rows=drawn
        )
        if not mixing:
            return batch, labels
        torch.manual_seed(derive_seed(self.seed, "mix", epoch, step))
        batch, labels = mix_batch(batch, labels, self.num_classes, self.settings)
        return batch[rows], labels


def check_batches(settings: TrainingSettings, num_images: int) -> None:
    """Raises UserError when the batch size fits neither the data nor the accumulation."""
    if settings.batch_size > num_images:
        raise UserError(
            f"--batch-size {settings.batch_size} is larger than the train split of {num_images} "
            f"images. Choose at most {num_images}."
        )
    if settings.batch_size % settings.parts or settings.batch_size < 2 * settings.parts:
        efficient = " with --memory-efficient" if settings.memory_efficient else ""
        raise UserError(
            f"--grad-accum-steps {settings.grad_accum_steps}{efficient} makes {settings.parts} "
            f"parts, which must divide --batch-size {settings.batch_size} into parts of two "
            "images or more."
        )
