"""Checks of a search space against the data, before its first trial."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eyevsai.config import TrainConfig
from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice
from eyevsai.training.settings import TrainingSettings
from eyevsai.tuning.grid import Grid
from eyevsai.tuning.search_space import SearchSpace
from eyevsai.workflows.train.setup import limit_to_data
from eyevsai.workflows.tune.settings import TuneConfig
from eyevsai.workflows.tune.study_config import trial_config

BATCH_SIZE = "batch_size"
MAX_CHECKED = 200  # points whose settings are checked; it takes a tenth of a second


def limit_space(
    config: TuneConfig, space: SearchSpace, num_images: int
) -> tuple[SearchSpace, list[str]]:
    """Limit the searched batch sizes to the train split.

    Otherwise trials would repeat each other, because each uses the largest batch that fits.

    Args:
        config: configuration of the study.
        space: search space.
        num_images: number of train images.

    Returns:
        The space, and a sentence about each change.
    """
    settings = config.trials.model.settings
    dimension = space.dimensions.get(BATCH_SIZE)
    if dimension is None or not isinstance(settings, TrainingSettings):
        return space, []
    highest = num_images - num_images % settings.num_micro_batches
    values = dimension.space
    if isinstance(values, Choice):
        too_large = [option for option in values.options if option > num_images]
    else:
        too_large = [values.high] * (values.high > num_images)
    if not too_large or highest < 2:  # a split of less than two images is rejected later
        return space, []
    note = (
        f"The space has a {BATCH_SIZE} of {' and '.join(f'{value:g}' for value in too_large)}, "
        f"larger than the train split of {num_images} images: using {highest}."
    )
    return space.limited(BATCH_SIZE, highest), [note]


def check_space(
    config: TuneConfig, space: SearchSpace, num_images: int
) -> tuple[TrainConfig, list[str]]:
    """Check points of a search space for settings that conflict with each other or the data.

    Args:
        config: configuration of the study.
        space: search space.
        num_images: number of train images.

    Returns:
        The configuration of the first point that can be trained, and a sentence about conflicts.

    Raises:
        UserError: no point that was checked can be trained. The message has the first reason.
    """
    usable, errors, num_checked = None, list[UserError](), 0
    for values in _select_points(config, space):
        num_checked += 1
        try:
            trial = trial_config(config, values)
            limit_to_data(trial, num_images)
        except UserError as error:
            errors.append(error)
        else:
            usable = usable or trial
    if usable is None:
        raise UserError(f"No point of the search space can be trained. {errors[0]}")
    if not errors:
        return usable, []
    return usable, [
        f"{len(errors)} of {num_checked} points of the search space that were checked cannot be "
        f"trained, and trials skip such points: {errors[0]}"
    ]


def _select_points(config: TuneConfig, space: SearchSpace) -> Iterator[dict[str, Any]]:
    """Yield the settings of trial 0, then of all or `MAX_CHECKED` points of the grid."""
    defaults = config.trials.model.settings
    yield {**space.fixed, **space.nearest(defaults)}
    grid = Grid(space, defaults)
    for position in range(min(grid.size, MAX_CHECKED)):
        yield {**space.fixed, **grid.point(grid.shuffled_index(position))}
