"""TOML files that users write."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError
from eyevsai.core.paths import expand


def read_toml(path: str | Path, label: str, example: str) -> dict[str, Any]:
    """Return the content of a TOML file.

    Args:
        path: file in UTF-8; `~` is expanded.
        label: option that names the file, or a noun phrase, for the error message.
        example: valid line of such a file, for the error message.

    Raises:
        UserError: the file cannot be read or is not valid TOML.
    """
    try:
        return tomllib.loads(expand(path).read_text(encoding="utf-8"))
    except OSError as error:
        reason = error.strerror or str(error)
    except ValueError as error:  # invalid TOML or invalid UTF-8
        reason = f"it is not valid TOML: {error}"
    raise UserError(
        f"{label} {path} cannot be read: {reason}. Use a text file with lines such as {example}"
    )
