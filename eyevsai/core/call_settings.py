"""Settings of a call that are not stored with its run: where values come from, where runs go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from eyevsai.core.settings import Doc, Parameter, Setting, Settings

Experiment = Annotated[
    str | None,
    Doc(
        "MLflow experiment of the run, created if it does not exist; by default that of "
        "MLFLOW_EXPERIMENT_NAME, or else the one with the name of the dataset."
    ),
]


@dataclass(frozen=True)
class CallSettings(Settings):
    """Source of further settings, and the experiment of the run."""

    PANEL: ClassVar[str] = "Run"

    config: Annotated[
        str | None,
        Parameter(),
        Doc(
            "YAML, JSON or TOML file with settings, or run:ID to repeat a run. Options override "
            "its values."
        ),
    ] = None
    experiment: Experiment = None

    def tags(self) -> dict[str, str]:
        """Return `config` as a tag of the run; empty without one."""
        return {} if self.config is None else {"config": self.config}

    def changed_parameters(
        self, values: Mapping[str, Any], declared: Iterable[Setting]
    ) -> list[Setting]:
        """Return the settings that MLproject declares and `config` may have changed.

        Args:
            values: values of the call by setting name.
            declared: settings of the command.
        """
        if self.config is None:
            return []
        return [
            each
            for each in declared
            if each.parameter and each.name in values and values[each.name] != each.default
        ]
