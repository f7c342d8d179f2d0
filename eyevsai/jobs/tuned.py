"""What a study found, as the settings of a training run."""

from __future__ import annotations

import logging
from dataclasses import replace

from eyevsai.config import AUTO_TUNED, NEVER_TUNED, TrainConfig
from eyevsai.errors import UserError
from eyevsai.names import ModelName
from eyevsai.settings import settings_of, spell_flags

log = logging.getLogger("eyevsai")

BEST = "best.json"


def use_tuned(config: TrainConfig, name: ModelName, tracking_uri: str) -> tuple[TrainConfig, str | None]:
    """The configuration with the best settings of a study in place of defaults, and the study's run.

    What was given on the command line stays.

    Raises:
        UserError: the study that was named is not there, has found nothing, or is of another model.
    """
    from eyevsai.tracking.search import find_study, read_json

    wanted = config.tuned.tuned
    if wanted == NEVER_TUNED:
        return config, None
    found = find_study(
        tracking_uri, {**vars(name), "preset": config.model.preset}, None if wanted == AUTO_TUNED else wanted
    )
    if found is None and wanted == AUTO_TUNED:
        return config, None
    if found is None:
        raise UserError(
            f"There is no finished study or run {wanted} of {name}. `eyevsai ui` shows those that are there."
        )
    best = read_json(tracking_uri, found, BEST)
    if best is None:
        raise UserError(f"The study in run {found} has no {BEST}. Take --tuned {NEVER_TUNED}, or tune again.")
    known = {setting.name for setting in settings_of(type(config.model.settings))}
    values = {key: value for key, value in best["settings"].items() if key in known and key not in config.given}
    log.info("Settings that a study found (run %s, valid accuracy %.4f): %s. Without them: --tuned %s",
             found, best["accuracy"], spell_flags(values), NEVER_TUNED)  # fmt: skip
    settings = replace(config.model.settings, **values)
    return replace(config, model=replace(config.model, settings=settings), untuned=config), found
