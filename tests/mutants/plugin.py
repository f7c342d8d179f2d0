"""Write each test's outcome and duration, a JSON line each, into the file that REACH_LOG names."""

from __future__ import annotations

import json
import os
from typing import Any


def pytest_runtest_logreport(report: Any) -> None:
    """Append one line per phase; called in the controller, or where there are no workers."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        with open(os.environ["REACH_LOG"], "a", encoding="utf-8") as log:
            row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
            log.write(json.dumps(row) + "\n")
