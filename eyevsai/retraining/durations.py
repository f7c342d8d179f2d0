"""Durations as people type them: `10m`, `6h`, `7d`."""

from __future__ import annotations

import re

from eyevsai.core.errors import UserError

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_DURATION = re.compile(rf"(\d+(?:\.\d+)?)\s*([{''.join(_UNITS_S)}])")


def parse_duration(text: str, option: str) -> float:
    """Return the seconds of a duration: a number and one of the units s, m, h, d and w.

    Args:
        text: duration, such as `7d`.
        option: option that it is the value of, for the error message.

    Raises:
        UserError: the text is no duration, or is 0.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if not 0 < seconds < 1e10:
        raise UserError(
            f"{option} {text!r} is not a duration. Use a number and a unit: 10m, 6h or 7d."
        )
    return seconds
