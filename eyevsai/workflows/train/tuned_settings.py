"""The best settings of a study as the settings of a training run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from eyevsai.config import AUTO_TUNED, NEVER_TUNED, TrainConfig
from eyevsai.core.errors import UserError
from eyevsai.core.legacy_names import SETTING_NAMES, rename_settings
from eyevsai.core.names import ModelName
from eyevsai.core.settings import Settings, list_settings
from eyevsai.registry.classes import hash_classes
from eyevsai.store.tags import JOB, MIN_COMPLETE
from eyevsai.tracking.search import find_run, find_study, find_tagged, has_classes, read_json
from eyevsai.tuning.settings import BEST

log = logging.getLogger("eyevsai")

MAX_FACTOR = 2  # by which training may have more epochs than the trials of such a study
# settings that tell how long a trial is
LENGTHS = frozenset({"epochs", "freeze_epochs", "fine_tune_epochs"})
UNCHANGED = "no setting changes"


@dataclass(frozen=True)
class _FoundStudy:
    """A study's run, and what `tune` wrote there about its best trial."""

    run_id: str
    study: str
    best: Mapping[str, Any]


@dataclass(frozen=True)
class _StudyKey:
    """What a study has to be about; `classes_sha256` is None if its classes do not matter."""

    name: ModelName
    preset: str
    classes_sha256: str | None

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its run."""
        return {**vars(self.name), "preset": self.preset}


def use_tuned(
    config: TrainConfig, name: ModelName, tracking_uri: str, classes: Sequence[str] | None = None
) -> tuple[TrainConfig, str | None]:
    """The configuration with the best settings of a study in place of defaults, and the study's
    run.

    What was given on the command line stays. A study that is named is always used; otherwise it is
    the newest finished one to which there are no objections (`find_objections`), if any. Studies of
    other `classes` are not considered.

    Raises:
        UserError: the study that was named is not there, has found nothing, or is of another model.
    """
    wanted = config.tuned.tuned
    if wanted == NEVER_TUNED:
        return config, None
    about = _StudyKey(name, config.model.preset, None if classes is None else hash_classes(classes))
    if wanted == AUTO_TUNED:
        return _use_newest_study(config, about, tracking_uri)
    found = _find_named(wanted, about, tracking_uri)
    settings = apply_best(config, found.best)
    if objections := find_objections(found.best, config.model.settings, settings):
        log.warning(
            "Study %s is used because --tuned names it; --tuned %s would not use it: %s.",
            found.study,
            AUTO_TUNED,
            "; ".join(objections),
        )
    return _use(config, found, settings)


def describe_tuned(config: TrainConfig) -> str:
    """Return the settings that a study changed, as one line."""
    before = config.untuned or config
    old, new = asdict(before.model.settings), asdict(config.model.settings)
    return (
        spell_changes({name: (old[name], new[name]) for name in new if old[name] != new[name]})
        or UNCHANGED
    )


def spell_changes(changes: Mapping[str, tuple[Any, Any]]) -> str:
    """Return settings, old and new values as `lr 0.003 -> 0.01123, width 32 -> 48`: numbers have
    four digits.
    """
    return ", ".join(
        f"{name} {_spell(old)} -> {_spell(new)}" for name, (old, new) in changes.items()
    )


def apply_best(config: TrainConfig, best: Mapping[str, Any]) -> Settings:
    """Return a model's settings with those of a study's best trial in place of defaults.

    Settings that were given stay. So do epochs that the study did not search: they were given to
    `tune` to make trials short.

    Raises:
        UserError: the study's settings and the flags do not go together.
    """
    known = {setting.name: setting.search for setting in list_settings(type(config.model.settings))}
    by_default = [name for name, search in known.items() if search]
    names = best.get("searched", by_default)  # earlier versions did not write it
    searched = [SETTING_NAMES.get(name, name) for name in names]
    values = {
        name: value
        for name, value in rename_settings(best["settings"]).items()
        if name in known and name not in config.given and (name in searched or name not in LENGTHS)
    }
    return replace(config.model.settings, **values)


def find_objections(best: Mapping[str, Any], plain: Settings, tuned: Settings) -> list[str]:
    """Return why a study's best trial is no proof that its settings are better than the defaults;
    empty if it is.

    Args:
        best: what `tune` wrote about the best trial and the one with the defaults.
        plain: the settings of the training run without the study.
        tuned: its settings with the study.
    """
    defaults = best.get("defaults")
    if defaults is None:
        return [
            "none of its trials is known to have the defaults, since it was begun by an earlier "
            "version"
        ]
    found = []
    if best["complete"] < MIN_COMPLETE:
        found.append(
            f"it has {_count(best['complete'], 'complete trial')} of the {MIN_COMPLETE} that "
            "are needed"
        )
    for trained, wanted in ((best["epochs"], _epochs(tuned)), (defaults["epochs"], _epochs(plain))):
        if (trained or 0) * MAX_FACTOR < wanted:
            found.append(
                f"its trials have {_count(trained or 0, 'epoch')}, less than half of the "
                f"{wanted} of training"
            )
            break
    if defaults["accuracy"] is None:
        found.append(
            f"its trial {defaults['trial']}, which has the defaults, has no result "
            f"({defaults['state']})"
        )
    elif best["accuracy"] <= defaults["accuracy"]:
        found.append(
            f"its best valid accuracy {best['accuracy']:.4f} is not above that of the defaults, "
            f"{defaults['accuracy']:.4f} (trial {defaults['trial']})"
        )
    return found


def _use_newest_study(
    config: TrainConfig, about: _StudyKey, tracking_uri: str
) -> tuple[TrainConfig, str | None]:
    """Use the newest finished study without objections; log those to the newest of all."""
    rejection, used = "", None
    for run in find_tagged(tracking_uri, {JOB: "tune", **about.tags}):
        if run.status != "FINISHED" or not has_classes(run.tags, about.classes_sha256):
            continue
        found = _FoundStudy(
            run.run_id,
            run.tags.get("study", run.run_id),
            read_json(tracking_uri, run.run_id, BEST) or {},
        )
        settings, objections = _find_study_objections(config, found.best)
        if settings is not None and not objections:
            used = found, settings
            break
        rejection = rejection or _describe_rejection(
            found, objections, could_be_used=settings is not None
        )
    if rejection:
        log.info("%s", rejection)
    return _use(config, *used) if used else (config, None)


def _describe_rejection(
    found: _FoundStudy, objections: Sequence[str], *, could_be_used: bool
) -> str:
    fix = f" Use it all the same with --tuned {found.study}." if could_be_used else ""
    return f"Study {found.study} is not used: {'; '.join(objections)}.{fix}"


def _find_study_objections(
    config: TrainConfig, best: Mapping[str, Any]
) -> tuple[Settings | None, list[str]]:
    """Return the settings that a study leads to, and the objections to it."""
    if not best:
        return None, [f"its run has no {BEST}"]
    try:
        settings = apply_best(config, best)
    except UserError as error:
        return None, [f"its settings and the flags do not go together ({error})"]
    return settings, find_objections(best, config.model.settings, settings)


def _find_named(wanted: str, about: _StudyKey, tracking_uri: str) -> _FoundStudy:
    run_id = find_study(tracking_uri, about.tags, wanted, about.classes_sha256)
    if run_id is None:
        raise UserError(
            f"There is no finished study or run {wanted} of {about.name}. `eyevsai ui` shows "
            "those that are there."
        )
    best = read_json(tracking_uri, run_id, BEST)
    if best is None:
        raise UserError(
            f"The study in run {run_id} has no {BEST}. Take --tuned {NEVER_TUNED}, or tune again."
        )
    return _FoundStudy(run_id, find_run(tracking_uri, run_id).tags.get("study", run_id), best)


def _use(config: TrainConfig, found: _FoundStudy, settings: Settings) -> tuple[TrainConfig, str]:
    """Put a study's settings in place of defaults and log what changes."""
    tuned = replace(config, model=replace(config.model, settings=settings), untuned=config)
    defaults, number = found.best.get("defaults") or {}, found.best.get("complete")
    known = [_count(number, "complete trial")] if number is not None else []
    known.append(f"valid accuracy {found.best['accuracy']:.4f}")
    if defaults.get("accuracy") is not None:
        known.append(f"defaults {defaults['accuracy']:.4f}")
    log.info(
        "Settings of study %s (run %s; %s): %s. --tuned %s keeps the defaults.",
        found.study,
        found.run_id,
        ", ".join(known),
        describe_tuned(tuned),
        NEVER_TUNED,
    )
    return tuned, found.run_id


def _epochs(settings: Settings) -> int:
    return getattr(settings, "epochs", 0)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _spell(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.4g}" if isinstance(value, float) else str(value)
