"""A run folder has one owner, and a deletion takes nothing of the next one."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import filelock
import pytest

from eyevsai.core import machine
from eyevsai.core.errors import UserError
from eyevsai.store.run_dir import LOCK, TRASH, RunDir, finish_deletions, list_run_dirs
from eyevsai.tracking.liveness import describe_process, is_stale


def test_lock_of_a_deleted_folder_is_not_the_lock_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process opens the lock file, the owner deletes the folder, a third one claims the run."""

    folder = RunDir(tmp_path, "run")
    acquire, opened = filelock.FileLock.acquire, []
    with folder.lock():
        pass

    def late(self, *arguments, **named):  # type: ignore[no-untyped-def]
        if not opened:
            opened.append(1)
            folder.delete()  # between the look at the lock file and its lock
        return acquire(self, *arguments, **named)

    monkeypatch.setattr(filelock.FileLock, "acquire", late)
    with folder.lock():
        assert (folder.path / LOCK).exists()
        with pytest.raises(UserError, match="is alive"):
            folder.lock()


def test_deletion_takes_nothing_of_the_next_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eyevsai.store import run_dir

    folder, rmtree, reached = (RunDir(tmp_path, "run"), run_dir.shutil.rmtree, threading.Event())

    def slow(path: Path, **named: bool) -> None:
        reached.set()
        time.sleep(0.3)
        rmtree(path, **named)

    monkeypatch.setattr(run_dir.shutil, "rmtree", slow)
    with folder.lock():
        (folder.path / "write_queue.jsonl").write_text("old")
        deleting = threading.Thread(target=folder.delete)
        deleting.start()
        reached.wait(5)
    with folder.lock():
        (folder.path / "write_queue.jsonl").write_text("new")
        deleting.join()
        assert (folder.path / "write_queue.jsonl").read_text() == "new"


def test_interrupted_deletion_is_finished_later(tmp_path: Path) -> None:
    trash = tmp_path / "runs" / f"{TRASH}run.1234"
    trash.mkdir(parents=True)
    assert list_run_dirs(tmp_path) == []
    finish_deletions(tmp_path)
    assert not trash.exists()


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
def test_process_of_an_unknown_machine_is_judged_by_its_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], here: dict[str, str]
) -> None:
    """Without /proc two hosts of one name could be told apart by nothing: a live run was marked
    FAILED.
    """
    from eyevsai.tracking import liveness

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


def test_machine_and_start_are_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("machine_id", "boot_id"):
        getattr(machine, name).cache_clear()
    monkeypatch.setattr(machine, "MACHINE_ID_FILES", ())
    monkeypatch.setattr(machine, "BOOT_ID_FILE", "/nowhere")
    try:
        assert abs(float(machine.boot_id()) - machine.psutil.boot_time()) < 2
        monkeypatch.setattr(machine.uuid, "getnode", lambda: 0x0242AC110002)
        assert machine.machine_id() == "0242ac110002"
        machine.machine_id.cache_clear()
        # a random number of Python's
        monkeypatch.setattr(machine.uuid, "getnode", lambda: 0x0142AC110002)
        assert machine.machine_id() == ""
    finally:
        for name in ("machine_id", "boot_id"):
            getattr(machine, name).cache_clear()
