"""A run is stale if its process ended; of an unknown machine the heartbeat decides."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from eyevsai.store.run_dir import RunDir
from eyevsai.tracking import liveness
from eyevsai.tracking.liveness import describe_process, is_stale


@pytest.mark.parametrize(
    ("changes", "here"),
    [
        ({"machine": "another"}, {}),
        ({"machine": ""}, {}),
        ({}, {"machine_id": ""}),
        ({}, {"boot_id": ""}),
        ({"boot": "earlier"}, {}),
        ({"boot": None}, {}),
    ],
)
def test_process_of_an_unknown_machine_is_stale_by_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], here: dict[str, str]
) -> None:
    """Hosts may share a name. Without /proc nothing else distinguished them, and a live run was
    marked FAILED.
    """
    dead = describe_process() | {"pid": 2**22 - 1} | changes
    for name, value in here.items():
        monkeypatch.setattr(liveness, name, lambda value=value: value)
    folder = RunDir(tmp_path, "run")
    assert not is_stale(json.dumps(dead), folder)
    folder.path.mkdir(parents=True)
    folder.record_heartbeat()
    assert not is_stale(json.dumps(dead), folder)
    os.utime(folder.path / "heartbeat", (time.time() - 3600,) * 2)
    assert is_stale(json.dumps(dead), folder)
