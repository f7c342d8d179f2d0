"""Functions that tests of executors call in other processes.

The module imports little, so that the processes start at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eyevsai.core.errors import UserError


def double(given: Mapping[str, Any]) -> int:
    print("doubling")
    return 2 * given["number"]


def refuse(given: Mapping[str, Any]) -> None:
    raise UserError(f"no {given['what']} here")


def stumble(given: Mapping[str, Any]) -> None:
    del given
    raise KeyError("missing")


def die(given: Mapping[str, Any]) -> None:
    print("the last words", flush=True)
    os.kill(os.getpid(), given["signal"])


def leave_child(given: Mapping[str, Any]) -> int:
    return subprocess.Popen(
        [sys.executable, "-c", f"import time; time.sleep({given['seconds']})"]
    ).pid


def sleep(given: Mapping[str, Any]) -> None:
    """Writes its process id and that of a child into a file; deaf to SIGTERM if wished."""
    if given.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(given["file"]).write_text(f"{os.getpid()} {leave_child(given)}")
    time.sleep(given["seconds"])
