"""The secret of an inference log, from which ids and hashes of keys are made."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from eyevsai.core.errors import UserError, read_error, write_error
from eyevsai.core.paths import expand
from eyevsai.inference_log.settings import MIN_SECRET, SECRET


def load_secret(secret_file: str | None, database_file: Path | None) -> bytes:
    """Return the secret from the environment, a file, or the file beside a SQLite log.

    The last one is created if it does not exist, readable for its owner only. In a database, the
    secret would be beside the hashes that it protects.

    Args:
        secret_file: file with the secret; None for the default.
        database_file: file of a SQLite log; None for PostgreSQL.

    Raises:
        UserError: there is no secret, it is too short, or a file cannot be read or created.
    """
    if text := os.environ.get(SECRET):
        return _check(text, SECRET)
    if secret_file is not None:
        return _read(expand(secret_file))
    if database_file is None:
        raise UserError(
            "A log in PostgreSQL needs a secret, which its servers share. Set "
            f"{SECRET} or --log-secret-file, for example to the output of: openssl rand -hex 32"
        )
    path = database_file.with_name(f"{database_file.name}.secret")
    if not path.exists():
        _create(path)
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        return _check(path.read_text(encoding="utf-8").strip(), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error if isinstance(error, OSError) else OSError("it is not UTF-8 text")
        raise read_error(path, reason, "Choose another --log-secret-file.") from error


def _check(text: str, source: str) -> bytes:
    if len(text) < MIN_SECRET:
        raise UserError(
            f"The secret of {source} has {len(text)} characters. Use {MIN_SECRET} or more, for "
            "example the output of: openssl rand -hex 32"
        )
    return text.encode()


def _create(path: Path) -> None:
    """Create a secret; another process may do so at the same time, and its secret counts."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        number, name = tempfile.mkstemp(dir=path.parent)  # readable for its owner only
        try:
            with open(number, "w", encoding="utf-8") as stream:
                stream.write(f"{secrets.token_hex(32)}\n")
            with suppress(FileExistsError):
                os.link(name, path)  # with its content, unlike a new file
        finally:
            Path(name).unlink()
    except OSError as error:
        raise write_error(path, error, "Choose another --log, or set --log-secret-file.") from error
