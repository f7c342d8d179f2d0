"""Times that users type."""

from __future__ import annotations

from datetime import datetime

from eyevsai.core.errors import UserError


def parse_time(when: str) -> datetime:
    """Return a time or date in ISO 8601; raise UserError if `--at` is neither."""
    try:
        return datetime.fromisoformat(when)
    except ValueError as error:
        raise UserError(
            f"--at {when!r} is not a date or time. Use 2026-03-03 or 2026-03-03T14:20."
        ) from error
