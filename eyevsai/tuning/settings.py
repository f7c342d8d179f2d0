"""What a person may say about a study, without optuna, so that help is instant."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice, Doc, Parameter, Range, Settings

BEST = "best.json"  # artifact of a study's run: the best trial and its settings
JOURNAL = ".journal"  # ends the name of a study's file
STUDY_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class TuneSettings(Settings):
    """How good settings are looked for."""

    PANEL: ClassVar[str] = "Tuning"

    n_trials: Annotated[
        int, Parameter(), Range(1, 100_000), Doc("Trials that the study has in the end.")
    ] = 20
    study: Annotated[
        str | None,
        Doc(
            "Name of the study; dataset, model and variation by default. One that exists is "
            "gone on with."
        ),
    ] = None
    sampler: Annotated[
        str,
        Choice(("tpe", "random", "gp", "cmaes", "grid")),
        Doc("What chooses the settings of the next trial."),
    ] = "tpe"
    pruner: Annotated[
        str,
        Choice(("hyperband", "median", "none")),
        Doc(
            "What gives up trials that do badly, by their valid/accuracy after each epoch (Li "
            "et al. 2018)."
        ),
    ] = "hyperband"
    space: Annotated[
        str | None,
        Doc("TOML file that narrows the search or fixes settings: lr = {low = 1e-4, high = 1e-2}."),
    ] = None
    storage: Annotated[
        str | None,
        Doc(
            "Database URL for the study, for several machines; a file beside the store by default."
        ),
    ] = None
    parallel_jobs: Annotated[
        int,
        Parameter(),
        Range(1, 1024),
        Doc("Trials at a time, each in a process with its share of the cores."),
    ] = 1
    timeout: Annotated[
        float | None, Range(0, 1e9), Doc("Seconds after which no trial is started any more.")
    ] = None
    trial_timeout: Annotated[
        float | None, Range(0, 1e9), Doc("Seconds after which a trial is given up as failed.")
    ] = None
    target_value: Annotated[
        float | None, Range(0, 1), Doc("Stop when a trial's valid/accuracy is this high.")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.study is not None and not STUDY_NAME.fullmatch(self.study):
            raise UserError(f"--study takes letters, digits and _ . -, not {self.study!r}.")
