"""TOML files that people write."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError


def read_toml(path: str | Path, what: str, line: str) -> dict[str, Any]:
    """The content of a file that is named by a flag or otherwise: `what`.

    Raises:
        UserError: it cannot be read; the message shows a `line` of what it should be.
    """
    try:
        return tomllib.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except OSError as error:
        why = error.strerror or str(error)
    except ValueError as error:  # of TOML, or of UTF-8
        why = f"it is not TOML: {error}"
    raise UserError(
        f"{what} {path} cannot be read: {why}. It takes a text file with lines such as {line}"
    )
