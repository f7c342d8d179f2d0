"""Samplers, which choose the settings of the next trial, and pruners, which give up trials that do
badly.
"""

from __future__ import annotations

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    RandomSampler,
    TPESampler,
)

from eyevsai.tuning.search_space import SearchSpace
from eyevsai.tuning.settings import TuneSettings

MIN_EPOCHS = 3  # of a trial, for anything to be gained by giving it up
STARTUP_TRIALS = 5  # that the median pruner lets run


class _Grid(GridSampler):
    """A grid of which --n-trials decides the end.

    Optuna's ends the loop of `Study.optimize`, which does not exist here, and fails after a trial
    that was queued.
    """

    after_trial = BaseSampler.after_trial


def make_sampler(settings: TuneSettings, space: SearchSpace, seed: int) -> BaseSampler:
    """Return a sampler; a `seed` that depends on how many trials there are lets a resumed study
    repeat none.
    """
    kind = settings.sampler
    if kind == "tpe":
        return TPESampler(seed=seed, constant_liar=settings.parallel_jobs > 1)
    if kind == "gp":
        return GPSampler(seed=seed)
    if kind == "cmaes":
        return CmaEsSampler(seed=seed)
    if kind == "grid":
        return _Grid(space.grid(), seed=0)
    return RandomSampler(seed=seed)


def make_pruner(kind: str, epochs: int) -> BasePruner:
    """Return a pruner for trials of this many epochs."""
    if epochs < MIN_EPOCHS:
        return NopPruner()
    if kind == "hyperband":
        return HyperbandPruner(
            min_resource=max(1, epochs // 9), max_resource=max(1, epochs), reduction_factor=3
        )
    if kind == "median":
        return MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=epochs // 5)
    return NopPruner()
