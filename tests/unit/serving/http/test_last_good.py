"""Copy of the last good version, which the replicas of one machine share."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from eyevsai.serving.http.last_good import RECORD, LastGood
from eyevsai.serving.http.registry_source import FetchedVersion


def fetched(folder: Path, number: int) -> FetchedVersion:
    """Return a version with files, of which only number and folder matter."""
    source = folder / f"source-{number}"
    source.mkdir()
    for index in range(20):
        (source / f"{index}.txt").write_text(f"{number}", encoding="utf-8")
    version: Any = SimpleNamespace(number=number, name="digits", uri=f"models:/digits/{number}")
    return cast(FetchedVersion, SimpleNamespace(version=version, folder=source, threshold=None))


def test_replicas_that_save_at_once_leave_a_complete_copy(tmp_path: Path) -> None:
    versions = [fetched(tmp_path, number) for number in range(6)]
    for _ in range(10):
        barrier = threading.Barrier(len(versions))

        def save(version: FetchedVersion, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            LastGood(tmp_path / "state", "store", "digits@production").save(version)

        threads = [threading.Thread(target=save, args=(version,)) for version in versions]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        (path,) = (tmp_path / "state").rglob(RECORD)
        record = json.loads(path.read_text(encoding="utf-8"))
        assert len(list((path.parent / record["folder"]).iterdir())) == len(record["files"]) == 20
        assert len(list(path.parent.glob("version-*"))) == 1
