"""Configuration of a run: complete, immutable, and composed of declared settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from eyevsai.core.accelerator import has_cuda
from eyevsai.core.call_settings import CallSettings
from eyevsai.core.errors import UserError
from eyevsai.core.foreign_words import advise_option
from eyevsai.core.names import nearest
from eyevsai.core.paths import expand
from eyevsai.core.settings import (
    STATE_DIR,
    Choice,
    Detail,
    Doc,
    NotLogged,
    Parameter,
    Range,
    Setting,
    Settings,
    StateDir,
    as_flag,
    list_settings,
)
from eyevsai.data.catalog import PRESETS
from eyevsai.data.settings import DataSettings
from eyevsai.models.factory import FAMILIES, ResolvedModel, get_family, resolve_model

AUTO_TUNED, NEVER_TUNED = "auto", "never"
AUTO_PRESET, CPU_PRESET = "auto", "cpu"
# settings that `--minutes` determines; the first ones are numbers of epochs
EPOCHS = ("epochs", "fine_tune_epochs")
PLANNED = (*EPOCHS, "feature_views", "patience")
# settings of `train` that do not apply to `tune`
TRAIN_ONLY = ("resume", "resume_force", "tuned", "checkpoint_every_s", "devices", "replay")


@dataclass(frozen=True)
class ModelChoice(Settings):
    """Choice of the model and its preset."""

    PANEL: ClassVar[str] = "Model"

    model: Annotated[str, Parameter(), Doc("Family, or family/variation; see `eyevsai list`.")] = (
        "deep_v1"
    )
    variation: Annotated[str | None, Doc("Variation of the family; the first one by default.")] = (
        None
    )
    preset: Annotated[
        str,
        Choice((AUTO_PRESET, CPU_PRESET, "gpu")),
        Doc(
            "Hardware budget of the family's defaults, which explicit options override; auto is "
            "gpu where torch finds CUDA, else cpu."
        ),
    ] = AUTO_PRESET


@dataclass(frozen=True)
class RunSettings(Settings):
    """Settings of a run as a whole."""

    PANEL: ClassVar[str] = "Run"

    seed: Annotated[
        int,
        Range(0, 2**31 - 1),
        Parameter(),
        Doc("Seed of all random draws except the split; see --split-seed."),
    ] = 0
    run_name: Annotated[
        str | None, NotLogged(), Doc("Name of the run; dataset, model and variation by default.")
    ] = None
    state_dir: StateDir = STATE_DIR
    replay: Annotated[
        str | None,
        Detail(),
        Doc(
            "Id of a run with --minutes whose recorded schedule replaces the clock; --config "
            "run:ID sets it."
        ),
    ] = None
    checkpoint_every_s: Annotated[
        float,
        Range(0.0, 1e9),
        NotLogged(),
        Doc("Seconds between checkpoints within an epoch; each epoch ends with a checkpoint."),
    ] = 300.0


@dataclass(frozen=True)
class ResumeSettings(Settings):
    """Resumption of an earlier run."""

    PANEL: ClassVar[str] = "Run"

    resume: Annotated[
        str | None,
        Doc(
            "Id of the run to resume, or auto: the last run on this machine with "
            "these settings, if any."
        ),
    ] = None
    resume_force: Annotated[
        bool, Doc("Resume although data or code changed since the run started.")
    ] = False


@dataclass(frozen=True)
class TunedSettings(Settings):
    """Use of a study's best settings in place of the defaults."""

    PANEL: ClassVar[str] = "Model"

    tuned: Annotated[
        str,
        Doc(
            "auto: the best settings of the newest study of this model and dataset, if they beat "
            "the defaults after 10 complete trials of half the epochs; never; or the name or run "
            "id of a study. Explicit options override them."
        ),
    ] = AUTO_TUNED


@dataclass(frozen=True)
class ModelConfig:
    """Model, preset and model settings of a run."""

    resolved: ResolvedModel
    preset: str
    settings: Settings

    @property
    def family(self) -> str:
        """Name of the family."""
        return self.resolved.family

    @property
    def variation(self) -> str:
        """Name of the variation."""
        return self.resolved.variation


@dataclass(frozen=True)
class TrainConfig:
    """Complete configuration of `train`."""

    model: ModelConfig
    data: DataSettings
    run: RunSettings
    resume: ResumeSettings = ResumeSettings()
    tuned: TunedSettings = TunedSettings()
    explicit: frozenset[str] = frozenset()  # names of settings that the user or a study set
    # the configuration before settings of a study or limits of the data replaced its values
    requested: TrainConfig | None = None
    call: CallSettings = field(default_factory=CallSettings)

    def with_settings(self, settings: Settings) -> TrainConfig:
        """Return the configuration with other model settings; it keeps the requested ones."""
        if settings == self.model.settings:
            return self
        model = replace(self.model, settings=settings)
        return replace(self, model=model, requested=self.requested or self)

    def parameters(self, dataset: str) -> dict[str, Any]:
        """Return the settings that are parameters of the run in MLflow, by name.

        `dataset` is the name of the dataset, which `--data` determines, too. `flat` has all others.
        """
        return select_parameters(self.flat() | {"dataset": dataset}, self.model.resolved)

    def flat(self) -> dict[str, Any]:
        """Return all settings by name, as `config.json` has them."""
        chosen = {
            "model": self.model.family,
            "variation": self.model.variation,
            "preset": self.model.preset,
        }
        return chosen | asdict(self.data) | asdict(self.run) | asdict(self.model.settings)


def shared_settings() -> tuple[Setting, ...]:
    """Return the settings of `train` that all models share."""
    parts = (ModelChoice, TunedSettings, DataSettings, RunSettings, CallSettings, ResumeSettings)
    return tuple(setting for part in parts for setting in list_settings(part))


def all_train_settings() -> tuple[Setting, ...]:
    """Return the settings of `train` for all models; several can have the same name."""
    declared = [
        variation.settings
        for family in FAMILIES
        for variation in get_family(family).variations.values()
    ]
    return (*shared_settings(), *(each for cls in declared for each in list_settings(cls)))


def train_settings(model: str | None, variation: str | None = None) -> tuple[Setting, ...]:
    """Return all settings of `train` for a model, selected as with `--model` and `--variation`.

    Without a model, return the shared settings and those that the default model inherits.

    Raises:
        UserError: the model or the variation does not exist.
    """
    if model is None:
        return shared_settings() + _common_settings()
    return model_settings(resolve_model(model, variation))


def model_settings(model: ResolvedModel) -> tuple[Setting, ...]:
    """Return all settings of `train` for a model."""
    return shared_settings() + list_settings(model.declaration.settings)


def select_parameters(values: Mapping[str, Any], model: ResolvedModel) -> dict[str, Any]:
    """Return those settings of a training that are parameters of its run in MLflow, by name.

    Args:
        values: settings of the training by name.
        model: model that was trained.
    """
    settings = {each.name: each for each in model_settings(model)}
    return {
        name: value
        for name, value in values.items()
        if name in settings and settings[name].acts(values)
    }


def explicit_settings(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a training's stored settings with which `compose_train` repeats them.

    None is left out where it is the default: a setting without a value.

    Args:
        stored: all settings by name, as `TrainConfig.flat` returns them.
    """
    model = resolve_model(str(stored["model"]), stored.get("variation"))
    defaults = {each.name: each.default for each in model_settings(model)}
    return {
        name: value
        for name, value in stored.items()
        if value is not None or defaults.get(name) is not None
    }


def compose_train(
    values: Mapping[str, Any], command: str = "train", others: Iterable[str] = ()
) -> TrainConfig:
    """Return the configuration of `train`: explicit values completed with defaults.

    In order of precedence: `values`, environment variables, the settings of the dataset, the
    preset, and the defaults of the family.

    Args:
        values: explicit values by setting name.
        command: command to name in error messages.
        others: names of further settings of `command`, to suggest for a misspelt name.

    Raises:
        UserError: a name is unknown, or a value is not allowed.
    """
    choice = ModelChoice(**_select_values(ModelChoice, values))
    model = resolve_model(choice.model, choice.variation)
    declared = model.declaration
    data = compose_data(values)
    setting_names = [setting.name for setting in model_settings(model)]
    for name in values:
        if name not in setting_names:
            candidates = [*setting_names, *sorted(others)]
            raise unknown_setting_error(name, model.family, candidates, command)
    budget_name = choice.preset
    if budget_name == AUTO_PRESET:
        budget_name = _select_preset(model, values)
    elif budget_name != CPU_PRESET and budget_name not in declared.presets:
        raise UserError(
            f"--preset {budget_name} is not available for {model.family}/{model.variation}. "
            "Omit it."
        )
    budget = dict(declared.presets.get(budget_name, {}))
    preset = {} if data.data is not None else dict(PRESETS.get(data.dataset, {}))
    defaults = {name: value for name, value in (budget | preset).items() if name in setting_names}
    settings = declared.settings(**defaults | _select_values(declared.settings, values))
    return TrainConfig(
        ModelConfig(model, budget_name, settings),
        data,
        compose_run(values),
        ResumeSettings(**_select_values(ResumeSettings, values)),
        TunedSettings(**_select_values(TunedSettings, values)),
        frozenset(values),
        call=compose(CallSettings, values),
    )


def _select_preset(model: ResolvedModel, values: Mapping[str, Any]) -> str:
    """Return the preset for this machine: gpu with CUDA, unless another device is set."""
    is_for_cuda = "gpu" in model.declaration.presets and values.get("device") in (
        None,
        "auto",
        "cuda",
    )
    return "gpu" if is_for_cuda and has_cuda() else CPU_PRESET


def check_minutes(config: TrainConfig) -> None:
    """Raise UserError if `--minutes` is set beside a number of epochs."""
    if getattr(config.model.settings, "minutes", None) is None or config.run.replay:
        return
    for name in EPOCHS:
        if name in config.explicit:
            raise UserError(
                f"{as_flag(name)} contradicts --minutes, which determines the number of epochs. "
                "Omit one of them."
            )


def take_run_id() -> str | None:
    """Return the id of the run that `mlflow run` created for this process; None without one.

    Removes it from the environment, so that child processes do not write to the same run.
    """
    return os.environ.pop("MLFLOW_RUN_ID", None)


def compose_data(values: Mapping[str, Any]) -> DataSettings:
    """Return the data settings: explicit values, else environment variables, else defaults."""
    return compose(DataSettings, values)


def compose_run(values: Mapping[str, Any]) -> RunSettings:
    """Return the run settings: explicit values, else environment variables, else defaults."""
    return compose(RunSettings, values)


def find_state_dir(values: Mapping[str, Any]) -> Path:
    """Return the folder of run state from explicit values, the environment or the default."""
    return expand(compose_run(values).state_dir)


S = TypeVar("S", bound=Settings)


def compose(cls: type[S], values: Mapping[str, Any]) -> S:
    """Return settings of class `cls`: explicit values, else environment variables, else defaults.

    Names in `values` that `cls` does not declare are ignored.

    Raises:
        UserError: a value is not allowed.
    """
    return cls(**_select_values(cls, values))


def coerce_settings(values: Mapping[str, Any], settings: Sequence[Setting]) -> dict[str, Any]:
    """Convert values of a program, by setting name, to the plain types that `settings` declare.

    Values whose name is not in `settings` are returned unchanged.
    """
    by_name = {setting.name: setting for setting in settings}
    return {
        name: by_name[name].coerce(value) if name in by_name else value
        for name, value in values.items()
    }


def check_no_train_settings(names: Iterable[str]) -> None:
    """Raise UserError if a name is a setting of `train` that does not apply to `tune`."""
    for name in names:
        if name in TRAIN_ONLY:
            raise UserError(
                f"{as_flag(name)} is an option of train only. To resume a study, run tune again "
                "with the same --study. Trials save no checkpoints and use one device each; "
                "--parallel-jobs runs several at once."
            )


def check_setting_names(names: Iterable[str], settings: Sequence[Setting], command: str) -> None:
    """Raise UserError, with the nearest match, if a name is not among a command's settings."""
    setting_names = [setting.name for setting in settings]
    for name in names:
        if name not in setting_names:
            raise UserError(
                f"There is no option {as_flag(name)} of {command}. "
                f"{_hint(name, setting_names, command)}"
            )


def unknown_setting_error(
    name: str, family: str, candidates: Iterable[str], command: str
) -> UserError:
    """Return the error for a setting that the model does not have.

    The message names another model that has the setting, or else the nearest candidate.

    Args:
        name: the unknown setting.
        family: family of the model.
        candidates: names of settings to suggest.
        command: command whose help the message refers to if no candidate is near.
    """
    flag = as_flag(name)
    for other in sorted(FAMILIES, key=lambda each: each != family):  # its own variations first
        variations = get_family(other).variations
        for variation, declared in variations.items():
            if name in {setting.name for setting in list_settings(declared.settings)}:
                model = other if variation == next(iter(variations)) else f"{other}/{variation}"
                this = "the selected variation" if other == family else family
                return UserError(
                    f"{flag} is a setting of {other} ({variation}), not of {this}. Use --model "
                    f"{model}, or omit it."
                )
    hint = _hint(name, list(candidates), command, f" --model {family}")
    return UserError(f"There is no option {flag}. {hint}")


def _hint(name: str, candidates: Sequence[str], command: str, model: str = "") -> str:
    """Return a sentence on what to use instead of an unknown setting, or on the help."""
    if advice := advise_option(name, candidates, command):
        return advice
    guess = nearest(name, candidates)
    return f"Did you mean {as_flag(guess)}?" if guess else f"See `eyevsai {command}{model} --help`."


def _select_values(cls: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `cls`'s settings from `values`, else from the environment."""
    selected = {}
    for setting in list_settings(cls):
        if setting.name in values:
            selected[setting.name] = values[setting.name]
        elif setting.env and os.environ.get(setting.env):
            selected[setting.name] = setting.parse(os.environ[setting.env])
    return selected


def _common_settings() -> tuple[Setting, ...]:
    """Return the settings that the default model inherits instead of declaring them itself."""
    default = resolve_model(ModelChoice().model)
    settings = list_settings(default.declaration.settings)
    return tuple(setting for setting in settings if setting.panel != default.family)
