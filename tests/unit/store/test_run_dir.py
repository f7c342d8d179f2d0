"""A run folder has one owner, and a deletion takes nothing of the next one."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import filelock
import pytest

from eyevsai.core.errors import UserError
from eyevsai.store.run_dir import LOCK, TRASH, RunDir, finish_deletions, list_run_dirs


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
        with pytest.raises(UserError, match="is in use"):
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
