"""Settings of `rollout`. Imports neither torch nor mlflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import STATE_DIR, Doc, NotLogged, Parameter, Range, Settings, StateDir
from eyevsai.inference_log.settings import OFF, LogSettings, LogUrl, log_url

EVERY_S = 10.0  # between two looks of a controller


@dataclass(frozen=True)
class RolloutCallSettings(Settings):
    """Model of a rollout, and the log that its servers write."""

    PANEL: ClassVar[str] = "Rollout"

    name: Annotated[str | None, Parameter(), Doc("Registered model.")] = None
    log: LogUrl = None
    state_dir: StateDir = STATE_DIR

    @property
    def url(self) -> str:
        """URL of the inference log.

        Raises:
            UserError: the log is switched off.
        """
        if self.log == OFF:
            raise UserError(
                "--log off leaves a rollout without evidence. Use the log of the servers."
            )
        return log_url(LogSettings(log=self.log, state_dir=self.state_dir))


@dataclass(frozen=True)
class RolloutSettings(RolloutCallSettings):
    """Candidate of a rollout, its plan and its conditions."""

    version: Annotated[
        int | None, Range(1, 10**9), Parameter(), Doc("Version to roll out: the candidate.")
    ] = None
    plan: Annotated[
        str | None,
        Doc(
            "Steps in place of the policy's: shadow, then shares in percent, such as "
            "shadow,1,5,25,50."
        ),
    ] = None
    policy: Annotated[
        str | None,
        Parameter(),
        Doc(
            "TOML file with the policy of the rollout; rollout.toml in the current folder by "
            "default, if it exists."
        ),
    ] = None
    promotion_policy: Annotated[
        str | None,
        Doc(
            "TOML file with the promotion policy, checked at the start and before the promotion; "
            "promotion.toml in the current folder by default, if it exists."
        ),
    ] = None
    class_change: Annotated[
        bool, Doc("Accept other classes than in Production; programs must support them.")
    ] = False
    detach: Annotated[
        bool,
        NotLogged(),
        Doc("Return after the start. Advance the rollout with `eyevsai rollout step`."),
    ] = False
    every_s: Annotated[
        float, Range(0.1, 3600), NotLogged(), Doc("Seconds between two looks at the evidence.")
    ] = EVERY_S


@dataclass(frozen=True)
class StepSettings(RolloutCallSettings):
    """Looks of a controller."""

    once: Annotated[bool, Doc("Look once, for cron; otherwise until the rollout ends.")] = False
    every_s: Annotated[float, Range(0.1, 3600), Doc("Seconds between two looks.")] = EVERY_S


@dataclass(frozen=True)
class StatusSettings(RolloutCallSettings):
    """Report on a rollout."""

    page: Annotated[str | None, Doc("Path of an HTML page with the curves of evidence.")] = None


@dataclass(frozen=True)
class EventSettings(RolloutCallSettings):
    """Pause, resumption or abortion by a person."""

    reason: Annotated[str | None, Doc("Reason, recorded in the audit log.")] = None
