"""Tracking URIs: resolution, masking of passwords, and paths of files beside a store."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from eyevsai.core.errors import first_line

STUDIES = "studies"


def find_store() -> str:
    """Return the tracking URI that MLflow resolves, without opening the store."""
    import mlflow

    uri: str = mlflow.get_tracking_uri()
    return uri


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
    return mask_password(uri).rstrip("/") if path is None else f"sqlite:///{path}"


def studies_dir(uri: str, state_dir: Path) -> Path:
    """Return the default folder of studies, used without --storage.

    It is beside the database of a SQLite store, and in `state_dir` for other stores.
    """
    path = sqlite_path(uri)
    return (path.parent if path else state_dir) / STUDIES


def sqlite_path(uri: str) -> Path | None:
    """Return the absolute path of the file of a SQLite store; None for other stores."""
    if not uri.startswith("sqlite:"):
        return None
    return Path(unquote(urlsplit(uri).path)[1:] or "mlflow.db").absolute()
