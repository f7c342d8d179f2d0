"""Identity of this machine and of its current boot; memory and exit codes of processes."""

from __future__ import annotations

import signal
import sys
import uuid
from functools import cache
from pathlib import Path

import psutil

MACHINE_ID_FILES = ("/etc/machine-id", "/var/lib/dbus/machine-id")
BOOT_ID_FILE = "/proc/sys/kernel/random/boot_id"


@cache
def machine_id() -> str:
    """Return an id that differs between machines with the same host name; empty if unknown.

    It is the system's machine id, or the MAC address of a network card.
    """
    for path in MACHINE_ID_FILES:
        if text := _read(path):
            return text
    node = uuid.getnode()
    # Without a network card, getnode() returns a random number with the multicast bit set.
    return "" if node >> 40 & 1 else f"{node:012x}"


@cache
def boot_id() -> str:
    """Return an id that differs between boots of this machine; empty if unknown.

    It is the kernel's boot id, or the boot time in seconds since 1970.
    """
    try:
        return _read(BOOT_ID_FILE) or f"{psutil.boot_time():.0f}"
    except (psutil.Error, OSError, RuntimeError):
        return ""


def peak_memory_mib() -> float:
    """Return the largest resident memory that this process has had so far, in MiB."""
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak / (2**20 if sys.platform == "darwin" else 2**10))  # bytes on macOS, else KiB


def describe_exit(code: int) -> str:
    """Describe the end of a process by its `returncode`, as the predicate of a sentence.

    A negative code is the negative number of the signal that killed the process.
    """
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
