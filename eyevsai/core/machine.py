"""Identity of this machine and of its current start."""

from __future__ import annotations

import signal
import uuid
from functools import cache
from pathlib import Path

import psutil

MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"


@cache
def machine_id() -> str:
    """Return what distinguishes this machine from others of its host name; empty if unknown."""
    for path in MACHINE_ID_FILES:
        if found := _read(path):
            return found
    node = uuid.getnode()
    # without a network card Python draws one at random
    return "" if node >> 40 & 1 else f"{node:012x}"


@cache
def boot_id() -> str:
    """Return what distinguishes this start of the machine from others; empty if unknown."""
    try:
        return _read(BOOT_ID_FILE) or f"{psutil.boot_time():.0f}"
    except (psutil.Error, OSError, RuntimeError):
        return ""


def describe_exit(code: int) -> str:
    """Return how a process ended, from its `returncode`: negative is the number of a signal."""
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
