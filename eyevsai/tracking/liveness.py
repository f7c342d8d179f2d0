"""Which process works on a run, and whether it still lives."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil

from eyevsai.core.machine import boot_id, machine_id
from eyevsai.store.run_dir import RunDir
from eyevsai.store.tags import HOST, PROCESS

HEARTBEAT_S, STALE_AFTER_S = 5.0, 60.0


def describe_process() -> dict[str, Any]:
    """This process, so that it can be told from a later one of the same number."""
    return {
        "host": platform.node(),
        "machine": machine_id(),
        "boot": boot_id(),
        "namespace": _namespace(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def owner_tags() -> dict[str, str]:
    """The tags by which a run says whose it is."""
    process = describe_process()
    return {HOST: process["host"], PROCESS: json.dumps(process)}


def is_stale(text: str, folder: RunDir) -> bool:
    """Return True if the process that a run's `eyevsai.process` tag describes has ended; False
    where that cannot be known.

    A process of another host is never judged. Its number means something only on the same machine,
    since the same start of it, in the same container. Where machine or start are unknown or differ,
    the heartbeat in the run folder of this machine decides: hosts may share a name.
    """
    try:
        process = json.loads(text)
        here = describe_process()
        if process["host"] != here["host"]:
            return False
        same = all(
            process.get(name) and process[name] == here[name] for name in ("machine", "boot")
        )
        if not same or process["namespace"] != here["namespace"]:
            beat = folder.last_heartbeat()
            return beat is not None and time.time() - beat > STALE_AFTER_S
        return not _is_running(int(process["pid"]), float(process["started"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_running(pid: int, started: float) -> bool:
    try:
        found = psutil.Process(pid)
        return bool(
            abs(found.create_time() - started) < 1.0 and found.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
