"""Tracking URIs: resolve them, show them without passwords, and find the files beside them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

STUDIES = "studies"


def find_store() -> str:
    """The tracking URI that MLflow resolves; nothing is opened."""
    import mlflow

    uri: str = mlflow.get_tracking_uri()
    return uri


def mask_password(uri: str) -> str:
    """`uri`, or a message that names it, without the password that it may hold."""
    uri = re.sub(r"(?i)(https?://)[^/\s]*@", r"\1***@", uri)
    without = re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", uri)
    return re.sub(r"(?i)([?&](?:password|passwd|pwd|sslpassword)=)[^&]*", r"\1***", without)


def canonical_uri(uri: str) -> str:
    """What tells this store from others in the folders of its runs; no password is in it."""
    path = sqlite_path(uri)
    return mask_password(uri).rstrip("/") if path is None else f"sqlite:///{path}"


def studies_dir(uri: str, state_dir: Path) -> Path:
    """Where studies are kept unless --storage says otherwise: beside a SQLite store, else on this
    machine.
    """
    path = sqlite_path(uri)
    return (path.parent if path else state_dir) / STUDIES


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite store, None for any other."""
    if not uri.startswith("sqlite:"):
        return None
    return Path(unquote(urlsplit(uri).path)[1:] or "mlflow.db").absolute()
