"""Samplers, which select the settings of trials, and pruners, which stop unpromising trials."""

from __future__ import annotations

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    RandomSampler,
    TPESampler,
)

from eyevsai.tuning.settings import TuneSettings

MIN_EPOCHS = 3  # pruning saves nothing in shorter trials
STARTUP_TRIALS = 5  # trials before the median pruner starts to prune


def make_sampler(settings: TuneSettings, seed: int) -> BaseSampler:
    """Return the sampler of `settings`; for a grid, whose points the study queues, any sampler.

    Args:
        settings: settings of the study.
        seed: seed of the sampler. It must depend on the number of trials: otherwise a resumed study
            would repeat settings.
    """
    name = settings.sampler
    if name == "tpe":
        return TPESampler(seed=seed, constant_liar=settings.parallel_jobs > 1)
    if name == "gp":
        return GPSampler(seed=seed)
    if name == "cmaes":
        return CmaEsSampler(seed=seed)
    return RandomSampler(seed=seed)


def make_pruner(name: str, epochs: int) -> BasePruner:
    """Return the pruner for trials of `epochs` epochs; it never prunes below `MIN_EPOCHS`."""
    if epochs < MIN_EPOCHS:
        return NopPruner()
    if name == "hyperband":
        return HyperbandPruner(
            min_resource=max(1, epochs // 9), max_resource=max(1, epochs), reduction_factor=3
        )
    if name == "median":
        return MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=epochs // 5)
    return NopPruner()
