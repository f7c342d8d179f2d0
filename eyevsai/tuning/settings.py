"""Settings of a study. Imports no optuna, so that help is fast."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.names import is_valid_on_windows, to_file_name
from eyevsai.core.settings import Choice, Doc, Parameter, Range, Settings
from eyevsai.core.toml import read_toml

BEST = "best.json"  # artifact of a study's run: the best trial and its settings
JOURNAL = ".journal"  # suffix of a study's file
TIMED_REPORTS = 10  # intermediate results of a trial with a time budget
STUDY_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class TuneSettings(Settings):
    """Settings of the hyperparameter search."""

    PANEL: ClassVar[str] = "Tuning"

    n_trials: Annotated[
        int,
        Parameter(),
        Range(1, 100_000),
        Doc("Total number of trials of the study."),
    ] = 20
    study: Annotated[
        str | None,
        Doc(
            "Name of the study; dataset, model and variation by default. An existing study is "
            "resumed."
        ),
    ] = None
    sampler: Annotated[
        str,
        Choice(("tpe", "random", "gp", "cmaes", "grid")),
        Doc("Sampler, which selects the settings of each trial."),
    ] = "tpe"
    pruner: Annotated[
        str,
        Choice(("hyperband", "median", "none")),
        Doc(
            "Pruner, which stops unpromising trials by their valid/accuracy after each epoch "
            "(Li et al. 2018)."
        ),
    ] = "hyperband"
    space: Annotated[
        str | None,
        Doc("TOML file that sets ranges or fixed values: lr = {low = 1e-4, high = 1e-2}."),
    ] = None
    storage: Annotated[
        str | None,
        Doc(
            "Database URL of the study, to use several machines; a file beside the store by "
            "default."
        ),
    ] = None
    parallel_jobs: Annotated[
        int,
        Parameter(),
        Range(1, 1024),
        Doc("Number of parallel trials, each in a process with its share of the cores."),
    ] = 1
    timeout: Annotated[
        float | None, Range(0, 1e9), Doc("Seconds after which no more trials start.")
    ] = None
    trial_timeout: Annotated[
        float | None, Range(0, 1e9), Doc("Seconds after which a trial is stopped and fails.")
    ] = None
    target_value: Annotated[
        float | None, Range(0, 1), Doc("Stop the study when a trial reaches this valid/accuracy.")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.study is not None and not STUDY_NAME.fullmatch(self.study):
            raise UserError(
                f"--study {self.study!r} is not allowed: it takes letters, digits and _ . - only."
            )


def journal_path(folder: Path, study: str) -> Path:
    """Return the journal file of a study; it has the study's name unless Windows reserves that."""
    name = f"{study}{JOURNAL}"
    return folder / (name if is_valid_on_windows(name) else f"{to_file_name(study)}{JOURNAL}")


def read_space(path: str | None) -> dict[str, Any]:
    """Return the content of a `--space` file by setting name; {} without a file.

    Raises:
        UserError: the file cannot be read, or is not valid TOML.
    """
    return read_toml(path, "--space", "lr = {low = 1e-4, high = 1e-2}") if path else {}
