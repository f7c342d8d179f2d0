"""Tracking URIs: resolution, checks, masking of passwords, and paths of files beside a store."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path, PurePath
from urllib.parse import quote as quote_path
from urllib.parse import unquote, urlsplit

from eyevsai.core.errors import UserError, first_line
from eyevsai.core.names import nearest
from eyevsai.core.paths import expand
from eyevsai.core.shell import quote

STUDIES = "studies"
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https")
MLRUNS = "mlruns"  # MLflow's default folder of a plain-file store
SQLITE_URI = re.compile(r"sqlite(\+\w+)?:///[^?#]+")
# host without a scheme: with a port, or certainly no folder
HOST = re.compile(r"([\w.-]+:\d+|localhost|\d+(\.\d+){3})(/.*)?")
DRIVE = re.compile(r"[A-Za-z]:[/\\]")
VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT_NAME, EXPERIMENT_ID = "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID"
MAX_EXPERIMENT_LENGTH = 256  # characters that MLflow's databases store


def find_store() -> str:
    """Return the tracking URI that MLflow resolves, without opening the store.

    Raises:
        UserError: the URI names no database and no server, for example a plain-file store.
    """
    import mlflow

    uri: str = mlflow.get_tracking_uri()
    check_uri(uri)
    return uri


def check_uri(uri: str) -> None:
    """Raise UserError unless a tracking URI names a database or a server."""
    # as written: databases and servers are recognised by lower-case schemes
    scheme = uri.partition(":")[0].partition("+")[0] if urlsplit(uri).scheme else ""
    masked = mask_password(uri)
    if scheme == "sqlite":
        _check_sqlite(uri)
    elif scheme in SERVERS and not urlsplit(uri).netloc:
        raise UserError(
            f"The URI {masked} has no host. Set {VARIABLE} to a URI such as {scheme}://HOST:5000."
        )
    elif HOST.fullmatch(uri):
        raise UserError(f"The URI {masked} has no scheme. Set {VARIABLE} to http://{masked}.")
    elif (scheme in ("", "file") or len(scheme) == 1) and uri != "databricks":
        raise _file_store_error(uri)
    elif scheme not in DATABASES + SERVERS:
        guess = nearest(scheme.lower(), DATABASES + SERVERS)
        raise UserError(
            f"The URI {masked} has the unsupported scheme {scheme or uri}. Set {VARIABLE} to a "
            "database, such as sqlite:///mlflow.db, or to a server with http or https."
            f"{f' Did you mean {guess}?' if guess else ''}"
        )


def _check_sqlite(uri: str) -> None:
    """Raise UserError unless the URI of a SQLite store names a file."""
    path = sqlite_path(uri)
    if not SQLITE_URI.fullmatch(uri.partition("?")[0]) or path is None or path.name == ":memory:":
        raise UserError(
            f"The URI {uri} names no file. Set {VARIABLE} to sqlite:///mlflow.db for a file in the "
            "current folder, or to sqlite:////FOLDER/mlflow.db for another folder."
        )
    if path.is_dir():
        raise UserError(
            f"The URI {uri} names a folder. Add the name of a file: set {VARIABLE} to "
            f"sqlite:///{path.as_posix()}/mlflow.db."
        )


def _file_store_error(uri: str) -> UserError:
    """Return the error for a path or a `file:` URI, with the ways to a supported store."""
    folder = expand(local_path(uri) or uri).absolute()
    if folder.is_file() or folder.suffix in (".db", ".sqlite"):
        return UserError(
            f"The URI {uri} has no scheme. Set {VARIABLE} to sqlite:///{folder.as_posix()}, if "
            "that is a database."
        )
    names = ("mlflow.db", "migrated.db", *(f"migrated-{number}.db" for number in range(2, 100)))
    # `mlflow migrate-filestore` would replace a database that exists
    target = next(name for name in names if not Path(name).exists())
    has_runs = any(folder.glob("[0-9]*/meta.yaml"))
    is_default = has_runs and folder == Path(MLRUNS).absolute()
    source = "." if is_default else quote(str(folder))
    reason = "MLflow selects it by default, because it contains experiments. " if is_default else ""
    database = "the existing mlflow.db" if Path("mlflow.db").exists() else "a new database"
    ways = [
        f"- to use {database} in all commands: set {VARIABLE} to sqlite:///mlflow.db (`mlflow ui` "
        "reads MLFLOW_BACKEND_STORE_URI instead)"
    ]
    if has_runs:
        ways.append(
            f"- to keep its runs: mlflow migrate-filestore --source {source} --target "
            f"sqlite:///{target}, then set {VARIABLE} to sqlite:///{target}"
        )
    removal = "" if is_default else f", and unset {VARIABLE} to use its mlflow.db"
    ways.append(f"- or start in another folder{removal}.")
    return UserError(
        f"The store {folder} is a plain-file store, which MLflow no longer supports. {reason}"
        "Choose one:\n" + "\n".join(ways)
    )


def select_experiment(name: str) -> None:
    """Make an experiment that of new runs, also of the processes that this one starts.

    Child processes and executors pass on MLflow's environment variables.

    Raises:
        UserError: the name is too long.
    """
    if len(name) > MAX_EXPERIMENT_LENGTH:
        raise UserError(
            f"--experiment {name[:20]}... has {len(name)} characters. Use at most "
            f"{MAX_EXPERIMENT_LENGTH}."
        )
    os.environ[EXPERIMENT_NAME] = name
    os.environ.pop(EXPERIMENT_ID, None)


def mask_password(uri: str) -> str:
    """Return a URI, or a message that contains URIs, with passwords replaced by `***`."""
    uri = re.sub(r"(?i)(https?://)[^/\s]*@", r"\1***@", uri)
    without = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", uri)
    return re.sub(r"(?i)([?&](?:password|passwd|pwd|sslpassword)=)[^&]*", r"\1***", without)


def summarize_error(error: BaseException) -> str:
    """Return the first line of an error's message without passwords, at most 200 characters."""
    return mask_password(first_line(error))[:200]


def canonical_uri(uri: str) -> str:
    """Return the URI that identifies a store in run directories.

    It has no password; the path of a SQLite store is absolute.
    """
    path = sqlite_path(uri)
    return mask_password(uri).rstrip("/") if path is None else f"sqlite:///{path.as_posix()}"


def studies_dir(uri: str, state_dir: Path) -> Path:
    """Return the default folder of studies, used without --storage.

    It is beside the database of a SQLite store, and in `state_dir` for other stores.
    """
    path = sqlite_path(uri)
    return (path.parent if path else state_dir) / STUDIES


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the file of a SQLite store; None for other stores."""
    file = sqlite_file(uri)
    return None if file is None else Path(file).absolute()


def sqlite_file(uri: str) -> str | None:
    """Return the file of a SQLite store as its URI has it, for example `C:/data/mlflow.db`."""
    return (unquote(urlsplit(uri).path)[1:] or "mlflow.db") if uri.startswith("sqlite:") else None


def local_path(location: str, *, windows: bool = sys.platform == "win32") -> str | None:
    """Return the path that a `file:` URI or a path denotes on this machine; None for remote ones.

    On Windows, the drive of a path looks like a scheme, and that of a URI follows a slash.
    """
    parts = urlsplit(location)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        path = unquote(parts.path)
        return path[1:] if windows and DRIVE.match(path, 1) else path
    if parts.scheme == "" or (windows and DRIVE.match(location)):
        return location
    return None


def spellings(folder: PurePath) -> list[str]:
    """Return the ways in which MLflow stores the path of an absolute folder, in a fixed order.

    They are the path and its `file:` URI. For a folder on Windows there are more: slashes may be
    backslashes, the drive may be in lower case, and a URI may have characters that it should quote.
    """
    path = folder.as_posix()
    if not folder.drive:
        return [path, f"file://{quote_path(path)}"]
    paths = [path[0].upper() + path[1:], path[0].lower() + path[1:]]
    return [
        *paths,
        *(each.replace("/", "\\") for each in paths),
        *(f"file:///{quote_path(each, safe='/:')}" for each in paths),
        *(f"file:///{each}" for each in paths),
    ]
