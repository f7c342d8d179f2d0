"""The MLflow store: opened with a check, created once under a lock.

MLflow creates a store's tables without a lock, so processes that open a fresh store at the same
time crash. Whoever comes first here creates it; the others wait.
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
from eyevsai.store.uris import find_store, mask_password, sqlite_path

log = logging.getLogger("eyevsai")

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
CONNECT_TIMEOUT_S = 10.0  # that a server has for its first answer
MISSING = "RESOURCE_DOES_NOT_EXIST"  # MLflow's error code for an entity that does not exist
MISSING_OR_INVALID = (MISSING, "INVALID_PARAMETER_VALUE")  # or whose name cannot exist
LOGIN = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"


def open_store(*, any_schema: bool = False) -> str:
    """The tracking URI that MLflow resolves, after the store behind it was created and checked.

    Raises:
        UserError: the store cannot be written or reached, is a plain-file store, is of a newer or
            older MLflow, was written by an earlier eyevsai (unless `any_schema`), or is a server
            that wants a login or whose address holds one.
    """
    from mlflow import MlflowClient

    uri = find_store()
    log.debug("The store is %s", mask_password(uri))
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in DATABASES:
        with lock_store(uri):
            _create_or_check(uri)
        check_not_moved(uri)
    elif scheme in ("http", "https"):
        check_server(uri)
        _create_or_check(uri)
    else:
        raise UserError(
            f"The store {mask_password(uri)} is a plain-file store, which MLflow no longer keeps. "
            "Unset MLFLOW_TRACKING_URI for sqlite:///mlflow.db, or name a database or a server."
        )
    if not any_schema:
        check_schema(MlflowClient(tracking_uri=uri))
    return uri


def check_server(uri: str) -> None:
    """One attempt at the server: MLflow's own first question would be asked for four minutes, in
    silence.

    Raises:
        UserError: nobody answers, or the address holds a login.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    if "@" in urlsplit(uri).netloc:  # MLflow prints the address at the end of each run
        raise UserError(
            f"The address {mask_password(uri)} holds a login, which would be shown. Set {LOGIN} "
            "instead."
        )
    try:
        http_request(
            get_default_host_creds(uri), "/health", "GET", max_retries=0, timeout=CONNECT_TIMEOUT_S
        )
    except MlflowException as error:
        # the innermost of the errors in it
        why = mask_password(str(error)).rsplit(": ", 1)[-1].strip("'\"() ")[:200]
        raise UserError(
            f"Nobody answers at {mask_password(uri)}: {why}. "
            "Is the server running there, and MLFLOW_TRACKING_URI right?"
        ) from error


def check_not_moved(uri: str) -> None:
    """Raises UserError when a SQLite store was moved with its artifacts: MLflow would look where
    they were.
    """
    path = sqlite_path(uri)
    if path is not None and (before := find_original_dir(path)):
        raise UserError(
            f"The store {path} was moved here from {before}, where it looks for artifacts. "
            "Mend it, after a copy, with: eyevsai doctor --relocate"
        )


@contextmanager
def raising_on_denial(uri: str) -> Iterator[None]:
    """Raises UserError when the server `uri` refuses what its block asks because of who asks."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "PERMISSION_DENIED":
            raise
        raise UserError(
            f"Your login may not write to {mask_password(uri)}. Ask its admin for the role "
            "`member`."
        ) from error


@contextmanager
def raising_store_errors(uri: str, what: str) -> Iterator[None]:
    """A block that tells a store something, or asks it.

    Raises:
        UserError: the server refuses it because of who asks.
        JobError: the store failed; the message begins with `what`.
    """
    from mlflow.exceptions import MlflowException

    with raising_on_denial(uri):
        try:
            yield
        except (MlflowException, OSError) as error:
            if getattr(error, "error_code", "") == "PERMISSION_DENIED":
                raise
            # a database says it in its second line
            said = mask_password(" ".join(str(error).split()) or type(error).__name__)
            raise JobError(
                f"{what} failed. The store says: {said[:300]}. Try again: what is there stays."
            ) from error


def lock_store(uri: str, suffix: str = "lock") -> FileLock:
    """A lock that all processes of this machine which ask for it with this store and suffix share.

    Raises:
        UserError: the store is a file that cannot be written.
    """
    path = sqlite_path(uri)
    if path is None:
        name = hashlib.sha256(uri.encode()).hexdigest()[:16]
        return host_lock(f"{name}.{suffix}")
    try:
        with open(f"{path}.{suffix}", "a"), open(path, "ab") if path.exists() else nullcontext():
            pass
    except OSError as error:
        fix = "Fix the folder's permissions, or set MLFLOW_TRACKING_URI to another store."
        raise write_error(path, error, fix) from error
    return FileLock(f"{path}.{suffix}")


def _connect(uri: str) -> None:
    """One attempt at the database: MLflow's own opening tries again for a quarter of an hour."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri)
    try:
        with engine.connect() as connection:
            sqlalchemy.inspect(connection).get_table_names()
    finally:
        engine.dispose()


def _create_or_check(uri: str) -> None:
    """Makes MLflow open the store, which creates its tables where there are none."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        if not uri.startswith("http"):
            _connect(uri)
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except MlflowException as error:
        if error.get_http_status_code() == 401:
            raise UserError(
                f"The server {mask_password(uri)} does not know you. Set {LOGIN}."
            ) from error
        raise _store_error(uri, str(error)) from error
    except ModuleNotFoundError as error:
        raise _driver_error(uri, error.name or "") from error
    except Exception as error:  # database drivers raise of every kind
        raise _store_error(uri, f"{type(error).__name__}: {error}") from error


def _driver_error(uri: str, driver: str) -> UserError:
    if driver == "psycopg":
        return missing_extra(f"The store {mask_password(uri)}", "postgres")
    hint = ""
    if uri.startswith("postgresql:"):  # SQLAlchemy 2.0 means psycopg2 by it, which no extra brings
        hint = (
            f" Or begin its address with postgresql+psycopg:, after {install_command('postgres')}"
        )
    return UserError(
        f"The store {mask_password(uri)} needs the Python package {driver}: pip install "
        f"{driver}.{hint}"
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
            f"The store {mask_password(uri)} is of an older MLflow than {mlflow.__version__}. "
            f"Back it up, then run: mlflow db upgrade {mask_password(uri)}"
        )
    return UserError(
        f"The store {mask_password(uri)} was made by a newer MLflow than {mlflow.__version__} "
        f"(its schema is {revision[1]}). Upgrade MLflow here, or name another store with "
        "MLFLOW_TRACKING_URI."
    )


def _known_revisions() -> set[str]:
    import mlflow.store.db_migrations as migrations

    folder = Path(migrations.__path__[0]) / "versions"
    return {path.name.split("_", 1)[0] for path in folder.glob("*.py")}
