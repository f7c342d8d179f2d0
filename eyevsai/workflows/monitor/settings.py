"""Settings of `monitor live` and the entry point `monitor`. Imports neither torch nor MLflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.errors import UserError
from eyevsai.core.settings import Choice, Doc, Env, NotLogged, Parameter, Range, Settings
from eyevsai.evaluation.monitor_settings import ALPHA, MIN_DISTANCE, MIN_IMAGES
from eyevsai.inference_log.settings import LogSettings
from eyevsai.retraining.durations import parse_duration
from eyevsai.retraining.settings import AccuracyFloor, RiskLimit

ASKED_AT_RANDOM, ASKED, ALL_LABELS = "random", "asked", "all"
MONITOR = "monitor"  # entry point whose command depends on its parameters
WEBHOOK_SECRET = "EYEVSAI_WEBHOOK_SECRET"


@dataclass(frozen=True)
class AlertSettings(LogSettings):
    """Windows and thresholds of the monitoring of a live model, and where alerts are sent."""

    PANEL: ClassVar[str] = "Monitoring"

    window: Annotated[
        int,
        Range(MIN_IMAGES, 10**7),
        Doc("Answers per window, at least; larger if there would be more than 100 windows."),
    ] = 200
    alpha: Annotated[
        float, Range(1e-9, 0.5), Doc("Probability of a false alarm of drift in each window.")
    ] = ALPHA
    min_distance: Annotated[
        float, Range(0.0, 1.0), Doc("Smallest distance of an alarm of drift.")
    ] = MIN_DISTANCE
    risk_labels: Annotated[
        str,
        Choice((ASKED_AT_RANDOM, ASKED, ALL_LABELS)),
        Doc(
            "Labels that the risk is computed from: of answers that `feedback suggest` drew at "
            "random, of all that it suggested, or all. Others are biased towards wrong answers."
        ),
    ] = ASKED_AT_RANDOM
    max_failures: Annotated[
        float, Range(0.0, 1.0), Doc("Largest acceptable share of failed answers.")
    ] = 0.01
    max_latency_ms: Annotated[
        float | None,
        Range(0.0, 1e9),
        Doc("Largest acceptable 99th percentile of the model time; not checked by default."),
    ] = None
    no_traffic: Annotated[
        str | None, Doc("Duration without an answer that is an alert, such as 1h; none by default.")
    ] = None
    webhook: Annotated[
        str | None,
        Env("EYEVSAI_WEBHOOK"),
        NotLogged(),
        Doc("URL to which alerts are sent as JSON, signed with the secret."),
    ] = None
    webhook_secret_file: Annotated[
        str | None,
        Env("EYEVSAI_WEBHOOK_SECRET_FILE"),
        NotLogged(),
        Doc(f"File with the secret of the webhook's signature; {WEBHOOK_SECRET} wins over it."),
    ] = None
    metrics_file: Annotated[
        str | None,
        NotLogged(),
        Doc("File for Prometheus' node_exporter (textfile collector), such as DIR/eyevsai.prom."),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.no_traffic is not None:
            parse_duration(self.no_traffic, "--no-traffic")

    @property
    def max_silence_s(self) -> float | None:
        """Seconds without an answer that are an alert; None if they are not."""
        return None if self.no_traffic is None else parse_duration(self.no_traffic, "--no-traffic")


@dataclass(frozen=True)
class LiveSettings(AlertSettings):
    """Settings of `monitor live`."""

    PANEL: ClassVar[str] = "Monitoring"

    since: Annotated[str, Doc("Age of the oldest answers to use: 12h, 7d, ...")] = "7d"
    risk_limit: RiskLimit = None
    accuracy_floor: AccuracyFloor = None
    page: Annotated[str, Doc("Path of the HTML page.")] = "live.html"

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_duration(self.since, "--since")

    @property
    def since_s(self) -> float:
        """Age of the oldest answers to use, in seconds."""
        return parse_duration(self.since, "--since")


@dataclass(frozen=True)
class MonitorSettings(Settings):
    """Parameters of the entry point `monitor`, which is `monitor live` or `monitor drift`."""

    PANEL: ClassVar[str] = "Monitoring"

    name: Annotated[
        str | None, Parameter(), Doc("Registered model whose inference log is read (live).")
    ] = None
    model: Annotated[
        str | None, Parameter(), Doc("Version to compare images with (drift), with data.")
    ] = None
    data: Annotated[str | None, Parameter(), Doc("Folder of images (drift).")] = None


def monitor_command(words: list[str]) -> list[str]:
    """Return the command of the entry point `monitor` for its arguments.

    Args:
        words: arguments as `mlflow run` passes them; empty ones are removed already.

    Raises:
        UserError: neither `name` nor both `model` and `data` are set, or all of them.
    """
    values, rest = dict[str, str](), list[str]()
    names = ("--name", "--model", "--data")
    iterator = iter(words)
    for word in iterator:
        option, has_value, value = word.partition("=")
        if option not in names:
            rest.append(word)
        else:
            values[option] = value if has_value else next(iterator, "")
    if set(values) == {"--name"}:
        return ["monitor", "live", values["--name"], *rest]
    if set(values) == {"--model", "--data"}:
        return ["monitor", "drift", values["--model"], values["--data"], *rest]
    shown = ", ".join(f"{name[2:]}={value}" for name, value in values.items()) or "nothing"
    raise UserError(
        f"monitor has {shown}. Set name=NAME to monitor the answers of a server, or model=MODEL "
        "and data=FOLDER to check a folder of images."
    )
