"""Settings and policy file of `watch`. Imports neither torch nor MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from eyevsai.config import train_settings
from eyevsai.core.errors import UserError
from eyevsai.core.names import nearest
from eyevsai.core.paths import expand
from eyevsai.core.settings import Doc, NotLogged, Parameter
from eyevsai.core.toml import read_toml
from eyevsai.executors.settings import ExecutorSettings
from eyevsai.registry.settings import parse_policy
from eyevsai.retraining.durations import parse_duration
from eyevsai.retraining.settings import POLICY, RetrainingPolicy
from eyevsai.workflows.monitor.settings import AlertSettings

# settings of `train` that a retraining determines itself
FIXED = frozenset(
    {
        "model",
        "variation",
        "dataset",
        "data",
        "data_dir",
        "dataset_name",
        "labels",
        "groups",
        "config",
        "experiment",
        "resume",
        "resume_force",
        "replay",
        "tuned",
        "state_dir",
        "run_name",
        "class_change",
        "split_seed",
    }
)


@dataclass(frozen=True)
class WatchSettings(AlertSettings):
    """Settings of `watch`."""

    PANEL: ClassVar[str] = "Watch"

    name: Annotated[str | None, Parameter(), Doc("Registered model with a served version.")] = None
    policy: Annotated[
        str | None,
        Parameter(),
        Doc(f"TOML file with the policy; {POLICY} in the current folder by default, if it exists."),
    ] = None
    once: Annotated[bool, Doc("Do what is due now, and end; this is the default.")] = False
    every: Annotated[
        str | None, Doc("Repeat after this pause, such as 10m, until it is interrupted.")
    ] = None
    start: Annotated[
        bool, Doc("Start a retraining by hand, or start again after failures; see --reason.")
    ] = False
    reason: Annotated[str | None, Doc("Reason of --start, recorded in the log.")] = None
    since: Annotated[str, Doc("Age of the oldest answers to monitor: 12h, 7d, ...")] = "7d"
    retraining_dir: Annotated[
        str | None,
        NotLogged(),
        Doc(
            "Folder of frozen data and labelling requests; `retraining` in --state-dir by default. "
            "Watchers on several machines need one that they share."
        ),
    ] = None
    images_dir: Annotated[
        str | None, NotLogged(), Doc("Folder of stored images; by default beside a SQLite log.")
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_duration(self.since, "--since")
        if self.every is not None:
            parse_duration(self.every, "--every")
        if self.name is None:
            raise UserError(
                "watch requires a registered model. Use: eyevsai watch NAME. `eyevsai registry "
                "status` lists the names."
            )
        if self.once and self.every is not None:
            raise UserError("--once and --every contradict each other. Omit one of them.")
        if self.reason is not None and not self.start:
            raise UserError("--reason requires --start. Add --start, or omit --reason.")

    @property
    def since_s(self) -> float:
        """Age of the oldest answers to monitor, in seconds."""
        return parse_duration(self.since, "--since")

    @property
    def every_s(self) -> float | None:
        """Seconds between two calls; None for a single call."""
        return None if self.every is None else parse_duration(self.every, "--every")

    @property
    def folder(self) -> Path:
        """Absolute path of the folder of frozen data and labelling requests."""
        chosen = self.retraining_dir or str(Path(self.state_dir) / "retraining")
        return expand(chosen).absolute()


@dataclass(frozen=True)
class WatchPolicy:
    """Content of a policy file: rules, executor, and settings of `train` that it overrides."""

    rules: RetrainingPolicy
    executor: ExecutorSettings
    train: Mapping[str, Any]


def read_watch_policy(path: str | None) -> WatchPolicy:
    """Return the policy of a file; without a path, that of `retraining.toml` or the defaults.

    Raises:
        UserError: the file cannot be read, or has an unknown setting or an invalid value.
    """
    file = expand(path or POLICY).absolute()
    if path is None and not file.is_file():
        return WatchPolicy(RetrainingPolicy(), ExecutorSettings(), {})
    values = read_toml(file, "The policy", "min_labels = 50")
    tables = {name: _pop_table(values, name, file) for name in ("executor", "train")}
    return WatchPolicy(
        RetrainingPolicy(**parse_policy(RetrainingPolicy, values, file)),
        ExecutorSettings(**parse_policy(ExecutorSettings, tables["executor"], file)),
        _check_train(tables["train"], file),
    )


def _pop_table(values: dict[str, Any], name: str, file: Path) -> dict[str, Any]:
    table = values.pop(name, {})
    if not isinstance(table, dict):
        raise UserError(f"{file}: [{name}] must be a table of settings, not {table!r}.")
    return table


def _check_train(values: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """Return the settings of the table [train], which depend on the model and are checked later.

    Raises:
        UserError: a setting does not exist for any model, or a retraining determines it itself.
    """
    from eyevsai.config import all_train_settings

    names = {each.name for each in (*train_settings(None), *all_train_settings())}
    for name in values:
        if name in FIXED:
            raise UserError(
                f"{file}: [train] {name} cannot be set: a retraining takes it from the version in "
                "Production. Remove it."
            )
        if name not in names:
            guess = nearest(name, names)
            hint = f" Did you mean {guess!r}?" if guess else " Remove it."
            raise UserError(f"{file}: [train] {name!r} is not a setting of train.{hint}")
    return dict(values)
