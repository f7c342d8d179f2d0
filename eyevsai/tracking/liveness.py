"""The process of a run: its description in tags, and the check whether it has ended."""

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
    """Return a description of this process that no later process has, even with the same pid."""
    return {
        "host": platform.node(),
        "machine": machine_id(),
        "boot": boot_id(),
        "namespace": _namespace(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }


def owner_tags() -> dict[str, str]:
    """Return the tags of a run that this process is working on: host and process."""
    process = describe_process()
    return {HOST: process["host"], PROCESS: json.dumps(process)}


def is_stale(text: str, folder: RunDir) -> bool:
    """Return True if the process of a run has ended; False if it is alive or its state is unknown.

    A process of another host is never stale. The pid is checked if the process was started on this
    machine, since its current boot and in the same container. Otherwise, or if machine or boot are
    unknown, the run is stale if its last heartbeat is older than `STALE_AFTER_S`: hosts may share a
    name.

    Args:
        text: value of the tag `eyevsai.process`.
        folder: run directory on this machine, with the heartbeat.
    """
    try:
        process = json.loads(text)
        current = describe_process()
        if process["host"] != current["host"]:
            return False
        is_same_boot = all(
            process.get(name) and process[name] == current[name] for name in ("machine", "boot")
        )
        if not is_same_boot or process["namespace"] != current["namespace"]:
            heartbeat = folder.last_heartbeat()
            return heartbeat is not None and time.time() - heartbeat > STALE_AFTER_S
        return not _is_running(int(process["pid"]), float(process["started"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _is_running(pid: int, started: float) -> bool:
    """Return True if a process with this pid and start time (seconds since 1970) is running."""
    try:
        process = psutil.Process(pid)
        return bool(
            abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def _namespace() -> str:
    """Return the PID namespace, which differs between containers; empty outside Linux."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
