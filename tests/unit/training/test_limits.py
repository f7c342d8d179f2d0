"""Settings that a small train split or a short training does not allow are limited, and logged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from eyevsai.core.errors import UserError
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.models.transfer.settings import TransferSettings
from eyevsai.training.batches import check_batches
from eyevsai.training.limits import describe_limits, limit_settings
from eyevsai.training.lr_schedule import LRSchedule


@pytest.mark.parametrize(
    ("values", "num_images", "batch_size"),
    [
        ({"batch_size": 64}, 56, 56),
        ({"batch_size": 64}, 64, 64),
        ({"batch_size": 64}, 2, 2),
        ({"batch_size": 64, "grad_accum_steps": 8}, 63, 56),
        ({"batch_size": 64, "memory_efficient": True}, 63, 60),
        ({"batch_size": 64, "devices": 4}, 17, 17),
    ],
)
def test_a_batch_has_at_most_the_train_split(
    values: dict[str, Any], num_images: int, batch_size: int
) -> None:
    limited = limit_settings(DeepV1Settings(**values), num_images)
    assert limited.batch_size == batch_size
    check_batches(limited, num_images)
    assert limit_settings(limited, num_images) is limited
    notes = describe_limits(DeepV1Settings(**values), num_images)
    expected = f"larger than the train split of {num_images} images: using {batch_size}."
    assert [expected in note for note in notes] == [True] * (batch_size < 64)


@pytest.mark.parametrize(
    ("values", "num_images", "message"),
    [
        ({}, 1, "of 1 image is too small: a batch has 2 images or more"),
        ({"grad_accum_steps": 4}, 7, "a batch has 8 images or more.*lower --grad-accum-steps"),
        ({"devices": 4}, 7, "a batch has 8 images or more.*--devices"),
        ({"memory_efficient": True}, 7, "Add images, omit --memory-efficient, or lower --valid-"),
    ],
)
def test_a_split_without_a_batch_is_refused(
    values: dict[str, Any], num_images: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        limit_settings(DeepV1Settings(batch_size=64, **values), num_images)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.2), (3, 0.6), (10, 2.0), (70, 2.0)])
def test_the_warm_up_is_at_most_a_fifth(epochs: int, warmup: float) -> None:
    settings = DeepV1Settings(epochs=epochs, lr=0.1, schedule="constant")
    schedule = LRSchedule(settings, settings.lr, settings.epochs)
    assert schedule.lr_at(warmup / 2) == pytest.approx(0.05)
    assert schedule.lr_at(warmup) == 0.1
    assert limit_settings(settings, 1000).warmup_epochs == warmup
    assert bool(describe_limits(settings, 1000)) == (warmup < 2)


def test_an_explicit_warm_up_is_limited_too() -> None:
    (note,) = describe_limits(DeepV1Settings(epochs=5, warmup_epochs=30), 1000)
    assert note == "--warmup-epochs 30 is longer than a fifth of the 5 epochs: using 1."


def test_each_phase_of_transfer_has_a_warm_up_of_its_own() -> None:
    settings = TransferSettings(freeze_epochs=10, fine_tune_epochs=2, dense_units="512")
    assert limit_settings(settings, 1000) is settings
    (note,) = describe_limits(settings, 1000)
    assert note == (
        "--warmup-epochs 1 is longer than a fifth of 10 epochs with a frozen backbone and 2 of "
        "fine-tuning: using 1 and 0.4."
    )
    assert not describe_limits(TransferSettings(), 1000)
    only_frozen = TransferSettings(freeze_epochs=1, fine_tune_epochs=0, head_solver="sgd")
    assert limit_settings(only_frozen, 1000).warmup_epochs == 0.2


def test_a_solved_head_has_no_warm_up() -> None:
    settings = TransferSettings(fine_tune_epochs=2)
    (note,) = describe_limits(settings, 1000)
    assert note == "--warmup-epochs 1 is longer than a fifth of the 2 epochs: using 0.4."
    solved = TransferSettings(fine_tune_epochs=0)
    assert not describe_limits(solved, 1000)
    assert limit_settings(solved, 1000).epochs == 1


@pytest.mark.parametrize(
    ("epochs", "decay", "used"), [(30, 10, 10), (12, 10, 10), (10, 10, 4), (2, 10, 1), (1, 1, 1)]
)
def test_a_step_schedule_drops_before_the_end(epochs: int, decay: int, used: int) -> None:
    settings = DeepV1Settings(
        epochs=epochs, schedule="step", decay_epochs=decay, warmup_epochs=0, lr=0.1
    )
    assert limit_settings(settings, 1000).decay_epochs == used
    schedule = LRSchedule(settings, settings.lr, settings.epochs)
    assert (schedule.lr_at(epochs - 0.01) < 0.1) == (epochs > 1)
    assert bool(describe_limits(settings, 1000)) == (used != decay)
    constant = replace(settings, schedule="constant")
    assert limit_settings(constant, 1000).decay_epochs == decay  # it has no drops


def test_drops_of_both_phases_of_transfer_are_stated_as_used() -> None:
    settings = TransferSettings(
        freeze_epochs=10,
        fine_tune_epochs=8,
        schedule="step",
        decay_epochs=10,
        dense_units="512",
    )
    limited = limit_settings(settings, 1000)
    used = [LRSchedule(limited, 0.1, phase).decay_epochs for phase in limited.phases]
    (note,) = describe_limits(settings, 1000)
    assert note.endswith(f"using {used[0]} and {used[1]}.")


def test_dropout_rises_within_the_training() -> None:
    settings = DeepV1Settings(epochs=10, dropout_warmup_epochs=40)
    assert limit_settings(settings, 1000).dropout_warmup_epochs == 10
    (note,) = describe_limits(settings, 1000)
    assert note == "--dropout-warmup-epochs 40 is longer than the 10 epochs: using 10."
