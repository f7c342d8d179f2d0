"""Settings limited to the size of the train split and to the length of the training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from eyevsai.core.errors import UserError
from eyevsai.core.quantities import format_count
from eyevsai.training.lr_schedule import limit_decay, limit_warmup
from eyevsai.training.settings import TrainingSettings

S = TypeVar("S", bound=TrainingSettings)


def limit_settings(settings: S, num_images: int) -> S:
    """Return `settings` with the values that a train split of `num_images` allows.

    Batches have at most all images of the split; warm-up and drops of the learning rate, and the
    rise of dropout, end within the training. Limited settings are returned unchanged.

    Raises:
        UserError: the split is too small for two images in each micro-batch.
    """
    longest = max(settings.phases, default=1)
    limited: dict[str, Any] = {
        "warmup_epochs": limit_warmup(settings.warmup_epochs, longest),
        "dropout_warmup_epochs": min(settings.dropout_warmup_epochs, float(sum(settings.phases))),
    }
    if settings.schedule == "step":
        limited["decay_epochs"] = limit_decay(settings.decay_epochs, longest)
    if settings.batch_size > num_images:
        limited["batch_size"] = largest_batch(settings, num_images)
    changes = {name: value for name, value in limited.items() if value != getattr(settings, name)}
    return replace(settings, **changes) if changes else settings


def largest_batch(settings: TrainingSettings, num_images: int) -> int:
    """Return the size of the largest batch of `num_images`: a multiple of the micro-batches.

    Raises:
        UserError: it has less than two images in each micro-batch of each device.
    """
    count = settings.num_micro_batches
    largest, minimum = num_images - num_images % count, 2 * count * settings.devices
    if largest < minimum:
        images = format_count(num_images, "image")
        raise UserError(
            f"The train split of {images} is too small: a batch has {minimum} images or more, two "
            f"in each micro-batch. Add images, {_remedies(settings)}."
        )
    return largest


def describe_limits(settings: TrainingSettings, num_images: int) -> list[str]:
    """Return a sentence for each value that `limit_settings` lowers, or a schedule limits."""
    limited, phases = limit_settings(settings, num_images), settings.phases
    length = format_count(sum(phases), "epoch")
    notes = []
    if limited.batch_size != settings.batch_size:
        notes.append(
            f"--batch-size {settings.batch_size} is larger than the train split of {num_images} "
            f"images: using {limited.batch_size}."
        )
    if not phases:  # the head is solved at once
        return notes
    warmups = [limit_warmup(settings.warmup_epochs, phase) for phase in phases]
    if min(warmups) < settings.warmup_epochs:
        part = f"the {length}" if len(phases) == 1 else _describe_phases(phases)
        notes.append(
            f"--warmup-epochs {settings.warmup_epochs:g} is longer than a fifth of {part}: using "
            f"{' and '.join(f'{value:g}' for value in warmups)}."
        )
    decays = [limit_decay(limited.decay_epochs, phase) for phase in phases]
    if settings.schedule == "step" and min(decays) < settings.decay_epochs:
        part = f"the {length}" if len(phases) == 1 else _describe_phases(phases)
        notes.append(
            f"--decay-epochs {settings.decay_epochs} leaves no drop within {part}: using "
            f"{' and '.join(map(str, decays))}."
        )
    if limited.dropout_warmup_epochs < settings.dropout_warmup_epochs:
        notes.append(
            f"--dropout-warmup-epochs {settings.dropout_warmup_epochs:g} is longer than the "
            f"{length}: using {limited.dropout_warmup_epochs:g}."
        )
    return notes


def _describe_phases(phases: tuple[int, ...]) -> str:
    frozen, fine_tuning = phases
    length = format_count(frozen, "epoch")
    return f"{length} with a frozen backbone and {fine_tuning} of fine-tuning"


def _remedies(settings: TrainingSettings) -> str:
    """Return what to change so that a batch needs fewer images, or the split has more."""
    factors = {
        "--grad-accum-steps": settings.grad_accum_steps > 1,
        "--devices": settings.devices > 1,
        "--valid-fraction and --test-fraction": True,
    }
    lower = " or ".join(name for name, is_factor in factors.items() if is_factor)
    return f"{'omit --memory-efficient, ' if settings.memory_efficient else ''}or lower {lower}"
