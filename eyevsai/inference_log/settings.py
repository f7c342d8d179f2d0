"""Settings of the inference log. Imports no database driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from eyevsai.core.paths import expand
from eyevsai.core.settings import (
    STATE_DIR,
    Doc,
    Env,
    NotLogged,
    Range,
    Settings,
    StateDir,
)

OFF = "off"
LOG_FILE = "inference_log.db"
SECRET = "EYEVSAI_LOG_SECRET"
MIN_SECRET = 16  # characters
MEBIBYTE = 2**20

LogUrl = Annotated[
    str | None,
    Env("EYEVSAI_LOG"),
    NotLogged(),
    Doc(
        "Database of the inference log: sqlite:///FILE, or postgresql://USER@HOST/DATABASE for "
        f"several machines; by default {LOG_FILE} in --state-dir."
    ),
]
SecretFile = Annotated[
    str | None,
    Env("EYEVSAI_LOG_SECRET_FILE"),
    NotLogged(),
    Doc(
        f"File with the secret of ids and keys; {SECRET} wins over it. By default, a file beside "
        "the database, made with a SQLite log."
    ),
]


ImagesDir = Annotated[
    str | None, NotLogged(), Doc("Folder of stored images; by default beside a SQLite log.")
]
Days = Annotated[
    float | None, Range(0.0, 36500.0), Doc("Use answers of this number of days; all by default.")
]


@dataclass(frozen=True)
class LogSettings(Settings):
    """Location of an inference log."""

    PANEL: ClassVar[str] = "Inference log"

    log: LogUrl = None
    log_secret_file: SecretFile = None
    state_dir: StateDir = STATE_DIR


@dataclass(frozen=True)
class LogWriterSettings(LogSettings):
    """Content and retention of the log of a server."""

    keep_images: Annotated[
        float,
        Range(0.0, 1.0),
        NotLogged(),
        Doc(
            "Share of images that are stored, besides those with unsure answers; 0 stores none. "
            "They are files beside the log, or in --images-dir."
        ),
    ] = 0.0
    images_dir: ImagesDir = None
    images_mb: Annotated[
        int, Range(1, 2**20), NotLogged(), Doc("Limit of all stored images, in MiB.")
    ] = 1024
    log_days: Annotated[
        float | None,
        Range(0.0, 36500.0),
        NotLogged(),
        Doc("Delete answers that are older than this number of days; by default, none."),
    ] = None
    log_mb: Annotated[
        int | None,
        Range(16, 2**30),
        NotLogged(),
        Doc("Delete the oldest answers if the log is larger, in MiB; by default, none."),
    ] = None


@dataclass(frozen=True)
class ExportLogSettings(LogSettings):
    """Answers that are exported."""

    file: Annotated[
        str | None, NotLogged(), Doc("Parquet file; by default NAME.parquet in this folder.")
    ] = None
    days: Days = None


@dataclass(frozen=True)
class ForgetSettings(LogSettings):
    """Log and images of which the data of a client are deleted."""

    images_dir: ImagesDir = None


@dataclass(frozen=True)
class PruneSettings(ForgetSettings):
    """Retention that is applied once."""

    days: Annotated[
        float | None, Range(0.0, 36500.0), Doc("Delete answers older than this number of days.")
    ] = None
    size_mb: Annotated[
        int | None,
        Range(1, 2**30),
        Doc("Delete the oldest answers until the log has this size, in MiB."),
    ] = None
    images_mb: Annotated[
        int | None,
        Range(0, 2**20),
        Doc("Delete the oldest images until all together have this size, in MiB."),
    ] = None


@dataclass(frozen=True)
class FeedbackSettings(LogSettings):
    """Labels that are added."""

    source: Annotated[
        str,
        Doc(
            "Source of the labels, if the file has none: person, rule or import, or KIND:NAME. "
            "Persons outrank rules, and rules outrank imports."
        ),
    ] = "import"


@dataclass(frozen=True)
class SuggestSettings(LogSettings):
    """Selection of answers that a person is asked to label."""

    count: Annotated[int, Range(1, 100_000), Doc("Number of answers.")] = 200
    random_share: Annotated[
        float,
        Range(0.0, 1.0),
        Doc(
            "Share that is drawn at random. The error rate is estimated from these: the others, "
            "with the least certain answers, are wrong more often."
        ),
    ] = 0.5
    days: Days = None
    label_studio: Annotated[
        bool, Doc("Write tasks for Label Studio, which contain the stored images, not a table.")
    ] = False
    file: Annotated[
        str | None, NotLogged(), Doc("File; by default NAME-to-label.csv or .json in this folder.")
    ] = None
    images_dir: ImagesDir = None


def log_url(settings: LogSettings) -> str:
    """Return the URL of the log, by default of a SQLite file in the folder of run state."""
    if settings.log is not None:
        return settings.log
    return f"sqlite:///{expand(settings.state_dir).absolute() / LOG_FILE}"
