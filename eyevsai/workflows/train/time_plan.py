"""Plan of a training with a time budget: a short probe measures what fits into the time."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from typing import Any

from eyevsai.config import TrainConfig
from eyevsai.core.errors import UserError
from eyevsai.core.progress import format_seconds
from eyevsai.core.quantities import format_count
from eyevsai.core.settings import Settings
from eyevsai.data.dataset import Dataset
from eyevsai.data.pixel_cache import is_cached
from eyevsai.data.preprocessing import Preprocessing
from eyevsai.data.settings import CROP_MARGIN
from eyevsai.store.backend import raising_store_errors
from eyevsai.tracking.run import Run
from eyevsai.tracking.search import find_run, read_json
from eyevsai.training.image_sizes import SMALLEST, STEP
from eyevsai.training.pace import Pace, RecordedPace, TimeBudget, TimedPace
from eyevsai.training.settings import (
    MAX_EPOCHS,
    NetworkSettings,
    TrainingSettings,
    UnfreezingSettings,
)
from eyevsai.training.weight_averaging import SHARES
from eyevsai.workflows.train.probe import Speed, measure_decoding, measure_speed
from eyevsai.workflows.train.setup import adapt_to_size

log = logging.getLogger("eyevsai")

SCHEDULE, PLAN = "schedule.json", "time_budget.json"  # artifacts of the run
MIN_EPOCHS = 20  # of a network from scratch: below, smaller images are more accurate
MIN_FINE_TUNING = 0.05  # share of the budget below which a solved head is not fine-tuned
# from the last step to the end of the process, without evaluations: plots, model, registration
TAIL_S = 6.0


@dataclass(frozen=True)
class TimePlan:
    """Plan of a training with a time budget; all times are in seconds."""

    budget_s: float
    image_size: int
    epochs: int
    speed: Speed
    decoding_s: float  # of the pixel cache; 0 if it exists
    evaluation_s: float  # of the valid split
    untimed_epochs: int  # epochs at the start whose length does not depend on the time
    window_s: float  # for epochs
    epoch_s: float  # mean of an epoch with its evaluation
    tail_s: float = TAIL_S


def plan_training(
    config: TrainConfig, dataset: Dataset, budget: TimeBudget
) -> tuple[TrainConfig, TimePlan]:
    """Return the configuration whose image size and epochs fit the budget, and the plan.

    Explicit settings keep their values.
    """
    settings = config.model.settings
    assert isinstance(settings, TrainingSettings)
    changes: dict[str, Any] = {} if "patience" in config.explicit else {"patience": 0}
    speed = measure_speed(config, dataset)
    size = settings.image_size
    decoding_s = measure_decoding(dataset, _preprocessing(config, dataset, size))
    remaining = _Remaining(config, dataset, budget, decoding_s, speed, size)
    if isinstance(settings, UnfreezingSettings):
        changes |= _plan_unfreezing(config, settings, remaining)
    else:
        if "image_size" not in config.explicit:
            size = _choose_size(remaining)
        if size != settings.image_size:
            config = config.with_settings(replace(settings, image_size=size))
            config = adapt_to_size(config, remaining.num_train)
            speed = measure_speed(config, dataset)
            remaining = replace(remaining, config=config, speed=speed, measured_at=size)
        changes["epochs"] = min(max(1, round(remaining.epochs_at(size))), MAX_EPOCHS)
    settings = config.model.settings
    assert isinstance(settings, TrainingSettings)
    planned = config.with_settings(replace(settings, **changes))
    final = planned.model.settings
    assert isinstance(final, NetworkSettings | UnfreezingSettings)
    plan = TimePlan(
        budget.total_s,
        final.image_size,
        final.epochs,
        remaining.speed.at(size, remaining.measured_at),
        remaining.decoding_s(size),
        remaining.evaluation_s(size),
        count_untimed_epochs(final),
        remaining.window_s(size),
        remaining.epoch_s(size),
    )
    _warn_if_short(final, plan, remaining)
    return planned, plan


def _warn_if_short(
    settings: NetworkSettings | UnfreezingSettings, plan: TimePlan, remaining: _Remaining
) -> None:
    """Log a warning if the time does not suffice for what a training does at least."""
    work, seconds = "one epoch", plan.epoch_s
    if isinstance(settings, UnfreezingSettings) and settings.frozen_epochs:
        work = "the features of the frozen backbone"
        seconds = remaining.features_s(settings.image_size, settings.feature_views)
    if plan.window_s < seconds:
        log.warning(
            "A time budget of %s is too short for %s, which takes about %s.",
            format_seconds(plan.budget_s),
            work,
            format_seconds(seconds),
        )


@dataclass(frozen=True)
class _Remaining:
    """Time of a budget that is left for epochs, for images of any size."""

    config: TrainConfig
    dataset: Dataset
    budget: TimeBudget
    uncached_decoding_s: float
    speed: Speed
    measured_at: int  # image size of the probe

    @property
    def num_train(self) -> int:
        return len(self.dataset.labels_of("train"))

    @property
    def num_valid(self) -> int:
        return len(self.dataset.labels_of("valid"))

    def decoding_s(self, size: int) -> float:
        """Return the expected time to decode the images for the pixel cache."""
        dataset, preprocessing = self.dataset, _preprocessing(self.config, self.dataset, size)
        cached = is_cached(dataset.cache, dataset.fingerprint, preprocessing)
        return 0.0 if cached else self.uncached_decoding_s

    def evaluation_s(self, size: int) -> float:
        """Return the expected time to evaluate the valid split."""
        return self.num_valid / self.speed.at(size, self.measured_at).evaluation

    def window_s(self, size: int) -> float:
        """Return the expected time for epochs."""
        evaluations_s = (1 + _count_averages(self.config.model.settings)) * self.evaluation_s(size)
        fixed_s = TAIL_S + evaluations_s + self.decoding_s(size)
        return max(0.0, self.budget.total_s - self.budget.elapsed() - fixed_s)

    def epoch_s(self, size: int) -> float:
        """Return the expected mean time of an epoch, with its evaluation."""
        speed = self.speed.at(size, self.measured_at)
        settings = self.config.model.settings
        assert isinstance(settings, TrainingSettings)
        cost = replace(settings, image_size=size).image_sizes.mean_cost
        return self.num_train * cost / speed.train + self.evaluation_s(size)

    def features_s(self, size: int, views: int) -> float:
        """Return the expected time of the features of a frozen backbone."""
        speed = self.speed.at(size, self.measured_at)
        return views * self.num_train / speed.evaluation + self.evaluation_s(size)

    def epochs_at(self, size: int) -> float:
        """Return the number of epochs that fit."""
        return self.window_s(size) / self.epoch_s(size)


def _choose_size(remaining: _Remaining) -> int:
    """Return the largest image size with which `MIN_EPOCHS` fit, or the smallest one."""
    largest = remaining.measured_at
    sizes: list[int] = sorted({largest, *range(SMALLEST, largest, STEP)}, reverse=True)
    return next((size for size in sizes if remaining.epochs_at(size) >= MIN_EPOCHS), sizes[-1])


def _plan_unfreezing(
    config: TrainConfig, settings: UnfreezingSettings, remaining: _Remaining
) -> dict[str, int]:
    """Return feature views and epochs of a pretrained network that fit the budget.

    At most 40 % of the time compute features; fine-tuning takes the rest. If not even an epoch of
    it fits, a head is trained by steps for the rest of the time; a head that is solved at once is
    followed by a part of an epoch.
    """
    size = settings.image_size
    window_s = remaining.window_s(size)
    changes: dict[str, int] = {}
    view_s = remaining.features_s(size, 1) - remaining.evaluation_s(size)
    views = max(1, min(settings.feature_views, int(0.4 * window_s / view_s)))
    if "feature_views" not in config.explicit:
        changes["feature_views"] = views
    if not settings.freeze_epochs:
        views = 0
    features_s = remaining.features_s(size, views) if views else 0.0
    fine_tune = round((window_s - features_s) / remaining.epoch_s(size))
    if settings.solves_head and window_s - features_s > MIN_FINE_TUNING * remaining.budget.total_s:
        fine_tune = max(fine_tune, 1)
    trains_backbone = settings.mixup or settings.cutmix or not settings.freeze_epochs
    fewest = 1 if trains_backbone else 0
    changes["fine_tune_epochs"] = min(max(fine_tune, fewest), MAX_EPOCHS)
    return changes


def _log_plan(plan: TimePlan, before: TrainingSettings) -> None:
    smaller = (
        f", instead of {before.image_size} px, so that more epochs fit"
        if plan.image_size < before.image_size
        else ""
    )
    log.info(
        "Time budget of %s: about %s at %d px%s (probe: %.0f images/s).",
        format_seconds(plan.budget_s),
        format_count(plan.epochs, "epoch"),
        plan.image_size,
        smaller,
        plan.speed.train,
    )


def _preprocessing(config: TrainConfig, dataset: Dataset, size: int) -> Preprocessing:
    settings = config.model.settings
    interpolation = getattr(settings, "interpolation", None) or "bilinear"
    margin = getattr(settings, "crop_margin", CROP_MARGIN)
    depth = dataset.curated.depth
    return Preprocessing(size, interpolation=interpolation, depth=depth, margin=margin)


@dataclass(frozen=True)
class Timing:
    """Timing of a run: its pace, and for a time budget the plan; all None without one."""

    pace: Pace | None = None
    budget: TimeBudget | None = None
    plan: TimePlan | None = None

    def log(self, run: Run, num_epochs: int) -> None:
        """Log the recorded positions, the plan and what became of it as artifacts of the run."""
        if self.pace is None:
            return
        schedule = {
            "epochs": self.pace.num_epochs,
            "positions": self.pace.positions,
            "checks_in_time": self.pace.checks_in_time,
        }
        run.log_dict(SCHEDULE, schedule)
        if self.budget is None:
            return
        seconds = self.budget.elapsed()
        outcome = {"seconds": round(seconds, 2), "epochs": num_epochs}
        run.log_dict(PLAN, {"plan": asdict(self.plan) if self.plan else None, "outcome": outcome})
        log.info(
            "Time budget of %s: training and evaluation of %s took %s.",
            format_seconds(self.budget.total_s),
            format_count(num_epochs, "epoch"),
            format_seconds(seconds),
        )


def plan_time(
    config: TrainConfig, dataset: Dataset, started_at: float, tracking_uri: str, *, is_new: bool
) -> tuple[TrainConfig, Timing]:
    """Return the configuration planned for `--minutes`, and the timing of the run.

    Args:
        config: settings of the run.
        dataset: images of the run.
        started_at: start of the call, in seconds of `time.monotonic`.
        tracking_uri: store with the run of `--replay`.
        is_new: plan epochs and image size; a resumed run has those of its first call.

    Raises:
        UserError: the run of `--replay` has no recorded schedule, or had other settings.
    """
    settings = config.model.settings
    if config.run.replay:
        return config, Timing(_recorded_pace(tracking_uri, config.run.replay, settings))
    if not isinstance(settings, TrainingSettings) or settings.minutes is None:
        return config, Timing()
    budget, plan = TimeBudget(60 * settings.minutes, started_at, TAIL_S), None
    if is_new:
        config, plan = plan_training(config, dataset, budget)
        _log_plan(plan, settings)
    planned = config.model.settings
    assert isinstance(planned, TrainingSettings)
    untimed_epochs = count_untimed_epochs(planned)
    pace = TimedPace(
        budget,
        plan.evaluation_s if plan else 0.0,
        untimed_epochs,
        step_s=planned.batch_size / plan.speed.train if plan and not untimed_epochs else 0.0,
        has_features=not getattr(planned, "fine_tune_epochs", 1),
        num_averages=_count_averages(planned),
    )
    return config, Timing(pace, budget, plan)


def _recorded_pace(tracking_uri: str, run_id: str, settings: Settings) -> RecordedPace:
    with raising_store_errors(tracking_uri, f"Reading the schedule of run {run_id}"):
        find_run(tracking_uri, run_id)
        record = read_json(tracking_uri, run_id, SCHEDULE)
    if record is None:
        raise UserError(
            f"Run {run_id} has no artifact {SCHEDULE}: it had no time budget, or did not finish. "
            "Omit --replay."
        )
    is_timed = getattr(settings, "minutes", None) is not None
    if not is_timed or getattr(settings, "epochs", None) != record["epochs"]:
        raise UserError(
            f"--replay {run_id} requires the settings of that run. Use --config run:{run_id}."
        )
    return RecordedPace(record["positions"], record.get("checks_in_time"))


def _count_averages(settings: Settings) -> int:
    """Return the number of averages of weights that are evaluated after the last epoch."""
    is_averaged = isinstance(settings, UnfreezingSettings) and settings.averages_weights
    return len(SHARES) if is_averaged else 0


def count_untimed_epochs(settings: Settings) -> int:
    """Return the epochs at the start whose length does not depend on the time."""
    if not isinstance(settings, UnfreezingSettings):
        return 0
    return settings.frozen_epochs if settings.fine_tune_epochs or settings.solves_head else 0
