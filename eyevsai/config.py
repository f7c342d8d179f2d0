"""A run's configuration: composed of declared settings, parsed once, frozen and complete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from eyevsai.core.errors import UserError
from eyevsai.core.names import nearest
from eyevsai.core.settings import (
    STATE_DIR,
    Choice,
    Doc,
    Env,
    Parameter,
    Range,
    Setting,
    Settings,
    as_flag,
    list_settings,
)
from eyevsai.data.catalog import PRESETS
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import FAMILIES, ResolvedModel, get_family, resolve_model

AUTO_TUNED, NEVER_TUNED = "auto", "never"
# what `tune` has no use for
OF_TRAIN = ("resume", "resume_force", "tuned", "checkpoint_every_s", "devices")


@dataclass(frozen=True)
class ModelChoice(Settings):
    """Which model."""

    PANEL: ClassVar[str] = "Model"

    model: Annotated[str, Parameter(), Doc("Family, or family/variation: see `eyevsai list`.")] = (
        "deep_v1"
    )
    variation: Annotated[str | None, Doc("Variation of the family; its first one by default.")] = (
        None
    )
    preset: Annotated[
        str,
        Choice(("cpu", "gpu")),
        Doc("Budget that the family's defaults are chosen for; flags go before it."),
    ] = "cpu"


@dataclass(frozen=True)
class RunSettings(Settings):
    """What is said of a run as a whole."""

    PANEL: ClassVar[str] = "Run"

    seed: Annotated[
        int,
        Range(0, 2**31 - 1),
        Parameter(),
        Doc("Seed of every random draw but the split: see --split-seed."),
    ] = 0
    run_name: Annotated[
        str | None, Doc("Name of the run; dataset, model and variation by default.")
    ] = None
    state_dir: Annotated[
        str, Env("EYEVSAI_STATE"), Doc("Folder for the checkpoints of runs that are not finished.")
    ] = STATE_DIR
    checkpoint_every_s: Annotated[
        float,
        Range(0.0, 1e9),
        Doc("Seconds between checkpoints within an epoch; the end of an epoch is always one."),
    ] = 300.0


@dataclass(frozen=True)
class ResumeSettings(Settings):
    """Going on with an earlier run instead of starting one."""

    PANEL: ClassVar[str] = "Run"

    resume: Annotated[
        str | None,
        Doc(
            "Id of a run to go on with, or auto: the last one on this machine with these "
            "settings, if any."
        ),
    ] = None
    resume_force: Annotated[
        bool, Doc("Go on although data or code changed since the run began.")
    ] = False


@dataclass(frozen=True)
class TunedSettings(Settings):
    """Whether a study's best settings take the place of defaults."""

    PANEL: ClassVar[str] = "Model"

    tuned: Annotated[
        str,
        Doc(
            "auto: the settings of the newest study of this model and dataset that is better "
            "than the defaults after 10 complete trials of half the epochs; never; or a study by "
            "name or run id. Flags go first."
        ),
    ] = AUTO_TUNED


@dataclass(frozen=True)
class ModelConfig:
    """A model, its preset and its settings."""

    resolved: ResolvedModel
    preset: str
    settings: Settings

    @property
    def family(self) -> str:
        """The name of the family."""
        return self.resolved.family

    @property
    def variation(self) -> str:
        """The name of the variation."""
        return self.resolved.variation


@dataclass(frozen=True)
class TrainConfig:
    """All that `train` needs to know."""

    model: ModelConfig
    data: DataSettings
    run: RunSettings
    resume: ResumeSettings = ResumeSettings()
    tuned: TunedSettings = TunedSettings()
    given: frozenset[str] = frozenset()  # names of the settings that were typed
    # what it was before a study's settings took the place of defaults
    untuned: TrainConfig | None = None

    def flat(self) -> dict[str, Any]:
        """Every setting by its name, as it is logged."""
        chosen = {
            "model": self.model.family,
            "variation": self.model.variation,
            "preset": self.model.preset,
        }
        return chosen | asdict(self.data) | asdict(self.run) | asdict(self.model.settings)


def shared_settings() -> tuple[Setting, ...]:
    """The settings of `train` that are the same for every model."""
    return tuple(
        s
        for part in (ModelChoice, TunedSettings, DataSettings, RunSettings, ResumeSettings)
        for s in list_settings(part)
    )


def all_train_settings() -> tuple[Setting, ...]:
    """The settings of `train` for every model; several may have one name."""
    declared = [
        variation.settings
        for family in FAMILIES
        for variation in get_family(family).variations.values()
    ]
    return (*shared_settings(), *(each for cls in declared for each in list_settings(cls)))


def train_settings(model: str | None, variation: str | None = None) -> tuple[Setting, ...]:
    """Return all settings of `train` for a model, given as in `--model` and `--variation`.

    Without a model they are those that the default model does not declare for itself.
    """
    if model is None:
        return shared_settings() + _common_settings()
    return model_settings(resolve_model(model, variation))


def model_settings(model: ResolvedModel) -> tuple[Setting, ...]:
    """Return all settings of `train` for a model."""
    return shared_settings() + list_settings(model.declaration.settings)


def compose_train(
    given: Mapping[str, Any], command: str = "train", others: Iterable[str] = ()
) -> TrainConfig:
    """The configuration in which `given` values, by setting name, go before all defaults.

    After them come environment variables, what suits the dataset, the preset, the family's
    defaults. `others` are the settings that a `command` has besides these: one of them may be what
    a wrong name means.

    Raises:
        UserError: a name or a value that is not allowed.
    """
    choice = ModelChoice(**_pick(ModelChoice, given))
    model = resolve_model(choice.model, choice.variation)
    declared = model.declaration
    data = compose_data(given)
    known = [setting.name for setting in model_settings(model)]
    for name in given:
        if name not in known:
            raise unknown_setting(name, model.family, [*known, *sorted(others)], command)
    if choice.preset != ModelChoice().preset and choice.preset not in declared.presets:
        raise UserError(
            f"{model.family}/{model.variation} has no --preset {choice.preset}: leave it out."
        )
    budget = dict(declared.presets.get(choice.preset, {}))
    preset = {} if data.data is not None else dict(PRESETS.get(data.dataset, {}))
    suited = {name: value for name, value in (budget | preset).items() if name in known}
    settings = declared.settings(**suited | _pick(declared.settings, given))
    return TrainConfig(
        ModelConfig(model, choice.preset, settings),
        data,
        compose_run(given),
        ResumeSettings(**_pick(ResumeSettings, given)),
        TunedSettings(**_pick(TunedSettings, given)),
        frozenset(given),
    )


def take_run_id() -> str | None:
    """The run that `mlflow run` made for this process; forgotten here, so that no child takes it
    too.
    """
    return os.environ.pop("MLFLOW_RUN_ID", None)


def compose_data(given: Mapping[str, Any]) -> DataSettings:
    """The data settings in which `given` values go before environment and defaults."""
    return compose(DataSettings, given)


def compose_run(given: Mapping[str, Any]) -> RunSettings:
    """The run settings in which `given` values go before environment and defaults."""
    return compose(RunSettings, given)


def find_state_dir(given: Mapping[str, Any]) -> Path:
    """Return the folder of run state that `given` values, the environment or the default name."""
    return Path(compose_run(given).state_dir).expanduser()


S = TypeVar("S", bound=Settings)


def compose(cls: type[S], given: Mapping[str, Any]) -> S:
    """The settings of one class in which `given` values go before environment and defaults."""
    return cls(**_pick(cls, given))


def coerce_settings(given: Mapping[str, Any], settings: Sequence[Setting]) -> dict[str, Any]:
    """Values that a program gave, by setting name, as these settings take them; those of others
    stay as they are.
    """
    known = {setting.name: setting for setting in settings}
    return {
        name: known[name].coerce(value) if name in known else value for name, value in given.items()
    }


def check_no_train_settings(given: Iterable[str]) -> None:
    """Raises UserError for settings of `train` that a study has no use for."""
    for name in given:
        if name in OF_TRAIN:
            raise UserError(
                f"{as_flag(name)} is a flag of train. A study goes on by itself when tune is "
                "started again with the same --study; its trials keep no checkpoints, and each "
                "has one device: several run at once with --parallel-jobs."
            )


def check_known(given: Iterable[str], settings: Sequence[Setting], command: str) -> None:
    """Raises UserError for a name that is none of a command's settings."""
    known = [setting.name for setting in settings]
    for name in given:
        if name not in known:
            raise UserError(
                f"There is no flag {as_flag(name)} of {command}. {_hint(name, known, command)}"
            )


def unknown_setting(name: str, family: str, known: Iterable[str], command: str) -> UserError:
    """The error for a flag that this model has not: whose it is, or which of a command's `known`
    ones is nearest.
    """
    flag = as_flag(name)
    for other in FAMILIES:
        for variation, declared in get_family(other).variations.items():
            if other != family and name in {
                setting.name for setting in list_settings(declared.settings)
            }:
                return UserError(
                    f"{flag} is a setting of {other} ({variation}), not of {family}. Add --model "
                    f"{other}, or leave it out."
                )
    return UserError(
        f"There is no flag {flag}. {_hint(name, known, f'{command} --model {family}')}"
    )


def _hint(name: str, known: Iterable[str], command: str) -> str:
    guess = nearest(name, known)
    return f"Did you mean {as_flag(guess)}?" if guess else f"See `eyevsai {command} --help`."


def _pick(cls: type[Settings], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of `cls`'s settings out of `given`, then out of the environment."""
    picked = {}
    for setting in list_settings(cls):
        if setting.name in given:
            picked[setting.name] = given[setting.name]
        elif setting.env and os.environ.get(setting.env):
            picked[setting.name] = setting.parse(os.environ[setting.env])
    return picked


def _common_settings() -> tuple[Setting, ...]:
    """What the default model takes and does not declare for itself."""
    default = resolve_model(ModelChoice().model)
    settings = list_settings(default.declaration.settings)
    return tuple(setting for setting in settings if setting.panel != default.family)
