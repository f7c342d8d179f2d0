"""The tracking store: creation under a lock, checks on opening, and errors of the store.

MLflow creates the tables of a store without a lock, so processes that open a new store at the same
time crash. Here the first process creates the tables while the others wait.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from eyevsai.core.errors import JobError, UserError, write_error
from eyevsai.core.extras import install_command, missing_extra
from eyevsai.core.locks import host_lock
from eyevsai.store.relocate import find_original_dir
from eyevsai.store.schema import check_schema
from eyevsai.store.uris import DATABASES, find_store, mask_password, sqlite_path

log = logging.getLogger("eyevsai")

CONNECT_TIMEOUT_S = 10.0  # for the first response of a server
MISSING = "RESOURCE_DOES_NOT_EXIST"  # MLflow's error code for an entity that does not exist
MISSING_OR_INVALID = (MISSING, "INVALID_PARAMETER_VALUE")  # does not exist, or has an invalid name
LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def open_store(*, any_schema: bool = False) -> str:
    """Open the tracking store that MLflow resolves and return its URI; create it if it is new.

    With `any_schema` the schema of the store is not checked.

    Raises:
        UserError: the store is unreachable or not writable, is a plain-file store, was created by
            another version of MLflow, was moved from another folder, or has another schema; or it
            is a server that rejects the credentials or whose URI contains them.
    """
    from mlflow import MlflowClient

    uri = find_store()
    log.debug("The store is %s", mask_password(uri))
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in DATABASES:
        with lock_store(uri):
            _create_or_check(uri)
        check_not_moved(uri)
    else:
        check_server(uri)
        _create_or_check(uri)
    if not any_schema:
        check_schema(MlflowClient(tracking_uri=uri))
    return uri


def check_server(uri: str) -> None:
    """Raise UserError unless a tracking server responds to one request.

    MLflow's own first request would be retried for four minutes without output.

    Raises:
        UserError: the server is unreachable, or the URI contains credentials.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    if "@" in urlsplit(uri).netloc:  # MLflow prints the URI at the end of each run
        raise UserError(
            f"The URI {mask_password(uri)} contains credentials, which MLflow would print. Set "
            f"{LOGIN} instead."
        )
    try:
        http_request(
            get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=CONNECT_TIMEOUT_S
        )
    except MlflowException as error:
        # the innermost error, which has the cause
        reason = mask_password(str(error)).rsplit(": ", 1)[-1].strip("'\"() ")[:200]
        raise UserError(
            f"The tracking server {mask_password(uri)} is unreachable: {reason}. Start the "
            "server, or correct MLFLOW_TRACKING_URI."
        ) from error


def check_not_moved(uri: str) -> None:
    """Raise UserError if a SQLite store was moved with its artifacts.

    MLflow stores absolute paths of artifacts, and would use the former ones.
    """
    path = sqlite_path(uri)
    if path is not None and (before := find_original_dir(path)):
        raise UserError(
            f"The store {path} was moved from {before}, and its artifact paths still point there. "
            "Correct them, after a backup, with: eyevsai doctor --relocate"
        )


@contextmanager
def raising_on_denial(uri: str) -> Iterator[None]:
    """Raise UserError if the server `uri` denies a request of the block for lack of permission."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
        raise UserError(
            f"The login has no permission to write to {mask_password(uri)}. Ask the admin for "
            "the role `member`."
        ) from error


@contextmanager
def raising_store_errors(uri: str, action: str) -> Iterator[None]:
    """Convert errors of the store inside the block to errors for users.

    `action` names the work of the block and begins the message, for example `Reading the registry`.

    Raises:
        UserError: the server denies a request for lack of permission.
        JobError: the store failed, with an `MlflowException` or `OSError`.
    """
    from mlflow.exceptions import MlflowException

    with raising_on_denial(uri):
        try:
            yield
        except (MlflowException, OSError) as error:
            if getattr(error, "error_code", "") == "PERMISSION_DENIED":
                raise
            # all lines: database errors have the cause in the second one
            reason = mask_password(" ".join(str(error).split()) or type(error).__name__)
            raise JobError(
                f"{action} failed: {reason[:300]}. Try again; finished writes are kept."
            ) from error


def lock_store(uri: str, suffix: str = "lock") -> FileLock:
    """Return the lock of a store and a suffix, shared by all processes of this machine.

    It is not acquired. For a SQLite store it is a file beside the database.

    Raises:
        UserError: the store is a SQLite file that cannot be written.
    """
    path = sqlite_path(uri)
    if path is None:
        name = hashlib.sha256(uri.encode()).hexdigest()[:16]
        return host_lock(f"{name}.{suffix}")
    try:
        with open(f"{path}.{suffix}", "ab"), open(path, "ab") if path.exists() else nullcontext():
            pass
    except OSError as error:
        fix = "Fix the folder's permissions, or set MLFLOW_TRACKING_URI to another store."
        raise write_error(path, error, fix) from error
    return FileLock(f"{path}.{suffix}")


def _connect(uri: str) -> None:
    """Connect to a database once: MLflow would retry for a quarter of an hour."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            sqlalchemy.inspect(connection).get_table_names()
    finally:
        engine.dispose()


def _create_or_check(uri: str) -> None:
    """Open the store with MLflow, which creates the tables if there are none.

    Raises:
        UserError: the store cannot be opened.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        if not uri.startswith("http"):
            _connect(uri)
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except MlflowException as error:
        if error.get_http_status_code() == 401:
            raise UserError(
                f"The server {mask_password(uri)} rejected the credentials. Set {LOGIN}."
            ) from error
        raise _store_error(uri, str(error)) from error
    except ModuleNotFoundError as error:
        raise _driver_error(uri, error.name or "") from error
    except Exception as error:  # database drivers raise exceptions of many classes
        raise _store_error(uri, f"{type(error).__name__}: {error}") from error


def _driver_error(uri: str, driver: str) -> UserError:
    if driver == "psycopg":
        return missing_extra(f"The store {mask_password(uri)}", "postgres")
    hint = ""
    if uri.startswith("postgresql:"):  # SQLAlchemy 2.0 uses psycopg2, which no extra installs
        hint = f" Or start the URI with postgresql+psycopg:, after {install_command('postgres')}"
    return UserError(
        f"The store {mask_password(uri)} needs the Python package {driver}. Install it with: pip "
        f"install {driver}.{hint}"
    )


def _store_error(uri: str, reason: str) -> UserError:
    import mlflow

    revision = re.search(r"found version (\w+)", reason)
    if revision is None:
        return UserError(
            f"The store {mask_password(uri)} cannot be opened: "
            f"{mask_password(reason.splitlines()[0])[:300]}"
        )
    if revision[1] in _known_revisions():
        return UserError(
            f"The store {mask_password(uri)} was created by an older MLflow than "
            f"{mlflow.__version__}. "
            f"Back it up, then run: mlflow db upgrade {mask_password(uri)}"
        )
    return UserError(
        f"The store {mask_password(uri)} was created by a newer MLflow than {mlflow.__version__} "
        f"(its schema is {revision[1]}). Upgrade MLflow, or set MLFLOW_TRACKING_URI to another "
        "store."
    )


def _known_revisions() -> set[str]:
    """Return the schema revisions of the installed MLflow."""
    import mlflow.store.db_migrations as migrations

    folder = Path(migrations.__path__[0]) / "versions"
    return {path.name.split("_", 1)[0] for path in folder.glob("*.py")}
