"""Commands that have an option which the called command does not have."""

from __future__ import annotations

from collections.abc import Collection

from eyevsai.core.errors import UserError
from eyevsai.core.foreign_words import advise_option
from eyevsai.core.names import nearest
from eyevsai.core.settings import as_flag, list_settings
from eyevsai.evaluation.settings import EvaluateSettings
from eyevsai.executors.settings import ExecutorSettings, TrainAllSettings
from eyevsai.formats.settings import ExportSettings
from eyevsai.tuning.settings import TuneSettings

COMMANDS = {
    "tune": (TuneSettings, ExecutorSettings),
    "train-all": (TrainAllSettings, ExecutorSettings),
    "evaluate": (EvaluateSettings,),
    "export": (ExportSettings,),
}


def check_other_commands(name: str, command: str, options: Collection[str]) -> None:
    """Raise UserError if a setting that `command` does not have is an option of other commands.

    A misspelt option, or one of another tool, is left to `config.unknown_setting_error`.

    Args:
        name: name of the unknown setting.
        command: the called command.
        options: names of its settings.
    """
    owners = [
        owner
        for owner, classes in COMMANDS.items()
        if any(setting.name == name for cls in classes for setting in list_settings(cls))
    ]
    is_foreign = advise_option(name, options, command) is not None
    if owners and not is_foreign and nearest(name, options) is None:
        raise UserError(
            f"There is no option {as_flag(name)} of {command}: it is one of "
            f"{' and '.join(owners)}. Use `eyevsai {owners[0]}`, or omit it."
        )
