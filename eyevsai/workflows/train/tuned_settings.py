"""Use of a study's best settings in a training run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from eyevsai.config import AUTO_TUNED, NEVER_TUNED, TrainConfig
from eyevsai.core.errors import UserError
from eyevsai.core.legacy_names import SETTING_NAMES, rename_settings
from eyevsai.core.names import ModelName
from eyevsai.core.quantities import format_count
from eyevsai.core.settings import Settings, list_settings
from eyevsai.registry.classes import hash_classes
from eyevsai.store.tags import JOB, MIN_COMPLETE
from eyevsai.tracking.search import find_run, find_study, find_tagged, has_classes, read_json
from eyevsai.training.settings import TrainingSettings
from eyevsai.tuning.settings import BEST

log = logging.getLogger("eyevsai")

MAX_FACTOR = 2  # highest ratio of training epochs to trial epochs at which a study is used
# settings that determine the length of a trial
LENGTHS = frozenset({"epochs", "freeze_epochs", "fine_tune_epochs", "minutes"})
UNCHANGED = "no setting changes"


@dataclass(frozen=True)
class _StudyResult:
    """Run of a study, and the content of its `best.json`."""

    run_id: str
    study: str
    best: Mapping[str, Any]


@dataclass(frozen=True)
class _StudyKey:
    """Properties by which the studies of a training run are searched."""

    name: ModelName
    preset: str
    classes_sha256: str | None  # None for any classes

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the study's run."""
        return {**vars(self.name), "preset": self.preset}


def use_tuned(
    config: TrainConfig, name: ModelName, tracking_uri: str, classes: Sequence[str] | None = None
) -> tuple[TrainConfig, str | None]:
    """Replace default settings by the best settings of a study, as `--tuned` requests.

    Explicit settings keep their values. A study that `--tuned` names is always used, with a warning
    if it has blockers (`find_blockers`). `--tuned auto` uses the newest finished study without
    blockers, if there is one.

    Args:
        config: settings of the training run.
        name: dataset, family and variation of the model to train.
        tracking_uri: store with the studies.
        classes: class names of the dataset, in order. Studies of other classes are skipped, unless
            `--tuned` names their run. None accepts any classes.

    Returns:
        The new settings and the run id of the study; `config` itself and None without a study.

    Raises:
        UserError: the named study does not exist for this model, has no result, or its settings
            conflict with the explicit ones.
    """
    requested = config.tuned.tuned
    if requested == NEVER_TUNED:
        return config, None
    key = _StudyKey(name, config.model.preset, None if classes is None else hash_classes(classes))
    if requested == AUTO_TUNED:
        return _use_newest_study(config, key, tracking_uri)
    result = _find_named_study(requested, key, tracking_uri)
    settings = apply_best(config, result.best)
    if blockers := find_blockers(result.best, config.model.settings, settings):
        log.warning(
            "Study %s is used because --tuned names it; --tuned %s would not use it: %s.",
            result.study,
            AUTO_TUNED,
            "; ".join(blockers),
        )
    return _use_study(config, result, settings)


def describe_tuned(config: TrainConfig) -> str:
    """Return the settings that a study changed as one line; `UNCHANGED` if it changed none."""
    return describe_changes(config.requested or config, config) or UNCHANGED


def describe_changes(before: TrainConfig, after: TrainConfig) -> str:
    """Return the model settings that differ as one line; empty if none does."""
    old, new = asdict(before.model.settings), asdict(after.model.settings)
    return format_changes({name: (old[name], new[name]) for name in new if old[name] != new[name]})


def format_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the old and new values of settings as `lr 0.003 -> 0.01123, width 32 -> 48`.

    Floats are rounded to four significant digits.
    """
    return ", ".join(
        f"{name} {_format_value(old)} -> {_format_value(new)}"
        for name, (old, new) in changes.items()
    )


def apply_best(config: TrainConfig, best: Mapping[str, Any]) -> Settings:
    """Return the model settings of `config` with a study's best values in place of defaults.

    Raises:
        UserError: the study's settings conflict with the explicit ones.
    """
    return replace(config.model.settings, **_best_values(config, best))


def _best_values(config: TrainConfig, best: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a study that replace defaults, by setting name.

    Explicit settings keep their values. So do the settings in `LENGTHS` that the study did not
    search, because `tune` may have used shorter trials.
    """
    space = {setting.name: setting.search for setting in list_settings(type(config.model.settings))}
    by_default = [name for name, search in space.items() if search]
    names = best.get("searched", by_default)  # earlier versions did not write it
    searched = [SETTING_NAMES.get(name, name) for name in names]
    return {
        name: value
        for name, value in rename_settings(best["settings"]).items()
        if name in space
        and name not in config.explicit
        and (name in searched or name not in LENGTHS)
    }


def find_blockers(best: Mapping[str, Any], plain: Settings, tuned: Settings) -> list[str]:
    """Return the reasons why `--tuned auto` does not use a study; empty if there are none.

    A study needs at least `MIN_COMPLETE` complete trials, trials of at least half the epochs or
    minutes of training, and a best trial that is better than the trial with the default settings.

    Args:
        best: content of the study's `best.json`.
        plain: model settings of the training run without the study.
        tuned: model settings of the training run with the study.
    """
    defaults = best.get("defaults")
    if defaults is None:
        return ["it has no trial with the default settings, because an earlier version started it"]
    blockers = []
    if best["complete"] < MIN_COMPLETE:
        blockers.append(
            f"it has {format_count(best['complete'], 'complete trial')} of the {MIN_COMPLETE} "
            "required"
        )
    blockers += _find_short_trials(best, plain, tuned)
    if defaults["accuracy"] is None:
        blockers.append(
            f"its trial {defaults['trial']} with the default settings has no result "
            f"({defaults['state']})"
        )
    elif best["accuracy"] <= defaults["accuracy"]:
        blockers.append(
            f"its best valid accuracy {best['accuracy']:.4f} is not above that of the defaults, "
            f"{defaults['accuracy']:.4f} (trial {defaults['trial']})"
        )
    return blockers


def _use_newest_study(
    config: TrainConfig, key: _StudyKey, tracking_uri: str
) -> tuple[TrainConfig, str | None]:
    """Use the newest finished study without blockers.

    Logs the blockers of the newest study if it has any.
    """
    rejection, accepted = "", None
    for run in find_tagged(tracking_uri, {JOB: "tune", **key.tags}):
        if run.status != "FINISHED" or not has_classes(run.tags, key.classes_sha256):
            continue
        result = _StudyResult(
            run.run_id,
            run.tags.get("study", run.run_id),
            read_json(tracking_uri, run.run_id, BEST) or {},
        )
        settings, blockers = _find_study_blockers(config, result.best)
        if settings is not None and not blockers:
            accepted = result, settings
            break
        rejection = rejection or _describe_rejection(
            result, blockers, is_usable=settings is not None
        )
    if rejection:
        log.info("%s", rejection)
    return _use_study(config, *accepted) if accepted else (config, None)


def _describe_rejection(result: _StudyResult, blockers: Sequence[str], *, is_usable: bool) -> str:
    fix = f" Use it anyway with --tuned {result.study}." if is_usable else ""
    return f"Study {result.study} is not used: {'; '.join(blockers)}.{fix}"


def _find_study_blockers(
    config: TrainConfig, best: Mapping[str, Any]
) -> tuple[Settings | None, list[str]]:
    """Return the model settings with those of a study, None if unusable, and its blockers."""
    if not best:
        return None, [f"its run has no {BEST}"]
    try:
        settings = apply_best(config, best)
    except UserError as error:
        return None, [f"its settings conflict with the options ({error})"]
    return settings, find_blockers(best, config.model.settings, settings)


def _find_named_study(name: str, key: _StudyKey, tracking_uri: str) -> _StudyResult:
    """Return the study with a name or run id; raise UserError if it is missing or has no result."""
    run_id = find_study(tracking_uri, key.tags, name, key.classes_sha256)
    if run_id is None:
        raise UserError(
            f"--tuned {name}: {key.name} has no finished study or run of this name. `eyevsai ui` "
            "lists the existing ones."
        )
    best = read_json(tracking_uri, run_id, BEST)
    if best is None:
        raise UserError(
            f"The study in run {run_id} has no {BEST}. Use --tuned {NEVER_TUNED}, or tune again."
        )
    return _StudyResult(run_id, find_run(tracking_uri, run_id).tags.get("study", run_id), best)


def _use_study(
    config: TrainConfig, result: _StudyResult, settings: Settings
) -> tuple[TrainConfig, str]:
    """Return `config` with the model `settings`, and the study's run id; log the changes.

    The settings of the study are explicit in the result, so that data and time do not change them.
    """
    chosen = config.explicit | _best_values(config, result.best).keys()
    tuned = replace(config.with_settings(settings), explicit=chosen)
    defaults, number = result.best.get("defaults") or {}, result.best.get("complete")
    facts = [format_count(number, "complete trial")] if number is not None else []
    facts.append(f"valid accuracy {result.best['accuracy']:.4f}")
    if defaults.get("accuracy") is not None:
        facts.append(f"defaults {defaults['accuracy']:.4f}")
    log.info(
        "Using the settings of study %s (run %s; %s): %s. --tuned %s keeps the defaults.",
        result.study,
        result.run_id,
        ", ".join(facts),
        describe_tuned(tuned),
        NEVER_TUNED,
    )
    return tuned, result.run_id


def _find_short_trials(best: Mapping[str, Any], plain: Settings, tuned: Settings) -> list[str]:
    """Return the reason why the trials of a study are too short, if they are.

    Lengths are compared in minutes if the training has a time budget, otherwise in epochs.
    """
    minutes = tuned.minutes if isinstance(tuned, TrainingSettings) else None
    if minutes is not None:
        if best.get("minutes") is None:
            return ["its trials had no time budget, unlike the training"]
        if best["minutes"] * MAX_FACTOR < minutes:
            return [
                f"its trials have {best['minutes']:g} minutes, less than half of the {minutes:g} "
                "training minutes"
            ]
        return []
    epoch_pairs = ((best["epochs"], _epochs(tuned)), (best["defaults"]["epochs"], _epochs(plain)))
    for trial_epochs, epochs in epoch_pairs:
        if (trial_epochs or 0) * MAX_FACTOR < epochs:
            length = format_count(trial_epochs or 0, "epoch")
            return [f"its trials have {length}, less than half of the {epochs} training epochs"]
    return []


def _epochs(settings: Settings) -> int:
    return getattr(settings, "epochs", 0)


def _format_value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
