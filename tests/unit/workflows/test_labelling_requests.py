"""Answers that were selected for labelling, but whose file was never written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from eyevsai.core.errors import UserError
from eyevsai.inference_log.settings import SuggestSettings
from eyevsai.workflows.feedback.suggest import UNFINISHED, suggest_labels
from eyevsai.workflows.watch.requests import COUNTS, INTENT, TABLE, request_labels
from eyevsai.workflows.watch.settings import WatchSettings
from tests.conftest import ROOT
from tests.unit.inference_log.records import MODEL, count_rows, make_log


def settings_of(folder: Path, file: str = "labels.csv") -> SuggestSettings:
    """Return settings that write a file to a folder with a log."""
    url, state = f"sqlite:///{folder / 'log.db'}", str(folder / "state")
    return SuggestSettings(log=url, file=str(folder / file), state_dir=state)


def test_answers_of_an_unwritable_file_are_selected_again(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 20)
    with pytest.raises(UserError, match="missing"):
        suggest_labels(MODEL, settings_of(tmp_path, "missing/labels.csv"))
    assert count_rows(store, "suggestions") == 0
    path, counts = suggest_labels(MODEL, settings_of(tmp_path))
    assert sum(counts.values()) == count_rows(store, "suggestions") == 20
    assert len(path.read_text(encoding="utf-8").splitlines()) == 21


def test_answers_of_an_unwritable_request_are_selected_again(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 20)
    settings = WatchSettings(name=MODEL)
    (tmp_path / "file").touch()
    with pytest.raises(UserError):
        request_labels(store, MODEL, 10, tmp_path / "file" / "request-000001", settings)
    assert count_rows(store, "suggestions") == 0
    (tmp_path / "request-000001").mkdir()
    (tmp_path / "request-000001" / "notes.txt").touch()  # of a person
    with pytest.raises(UserError, match="request-000001"):
        request_labels(store, MODEL, 10, tmp_path / "request-000001", settings)
    assert count_rows(store, "suggestions") == 0
    request = request_labels(store, MODEL, 10, tmp_path / "request-000002", settings)
    assert request.count == count_rows(store, "suggestions") == 10


KILLED = """
import importlib, os, signal, sys
from pathlib import Path
from eyevsai.inference_log.settings import SuggestSettings
from eyevsai.inference_log.store import LogStore
from eyevsai.workflows.feedback.suggest import suggest_labels
from eyevsai.workflows.watch.requests import request_labels
from eyevsai.workflows.watch.settings import WatchSettings

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

folder, model, command, module, name = sys.argv[1:]
setattr(importlib.import_module(f"eyevsai.{module}"), name, die)
url = f"sqlite:///{folder}/log.db"
if command == "request":
    target = Path(folder) / "request-000001"
    request_labels(LogStore.open(url), model, 10, target, WatchSettings(name=model))
else:
    options = {"log": url, "count": 10, "file": f"{folder}/lost", "state_dir": f"{folder}/state"}
    suggest_labels(model, SuggestSettings(**options))
"""
FILES = "inference_log.suggestion_files"


def run_and_kill(folder: Path, command: str, module: str, name: str) -> None:
    """Run a command in a process that is killed when it calls a function."""
    arguments = [sys.executable, "-c", KILLED, str(folder), MODEL, command, module, name]
    process = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr


@pytest.mark.processes("a watcher that is killed")
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (FILES, "record_selection"),
        ("workflows.watch.requests", "write_suggestions"),
        ("workflows.watch.requests", "write_tasks"),
    ],
)
def test_a_killed_request_loses_no_answer(module: str, name: str, tmp_path: Path) -> None:
    """All 20 answers can still be asked for after a kill before the files are written."""
    store, _ = make_log(tmp_path, 20)
    run_and_kill(tmp_path, "request", module, name)
    assert (tmp_path / INTENT).is_file()
    # the next call asks under the same name or, if the state has changed meanwhile, a later one
    request = request_labels(
        store, MODEL, 20, tmp_path / "request-000003", WatchSettings(name=MODEL)
    )
    assert request.count == count_rows(store, "suggestions") == 20
    assert len((request.folder / TABLE).read_text(encoding="utf-8").splitlines()) == 21
    assert not (tmp_path / INTENT).exists()


@pytest.mark.processes("`feedback suggest`, which is killed")
@pytest.mark.parametrize(
    ("module", "name"),
    [(FILES, "record_selection"), ("inference_log.files", "write_atomically")],
)
def test_a_killed_suggestion_loses_no_answer(module: str, name: str, tmp_path: Path) -> None:
    """The next call, with another file, suggests all 20 answers, and then none."""
    store, _ = make_log(tmp_path, 20)
    run_and_kill(tmp_path, "suggest", module, name)
    assert not (tmp_path / "lost").exists()
    path, counts = suggest_labels(MODEL, settings_of(tmp_path))
    assert sum(counts.values()) == count_rows(store, "suggestions") == 20
    assert len(path.read_text(encoding="utf-8").splitlines()) == 21
    with pytest.raises(UserError, match="no answers without a label"):
        suggest_labels(MODEL, settings_of(tmp_path, "more.csv"))
    assert count_rows(store, "suggestions") == 20
    assert not list((tmp_path / "state" / UNFINISHED).glob("*.json"))


def test_a_call_waits_for_another_one(tmp_path: Path) -> None:
    """A selection whose file another process is about to write is not withdrawn."""
    make_log(tmp_path, 20)
    suggest_labels(MODEL, settings_of(tmp_path, "first.csv"))
    (lock,) = (tmp_path / "state" / UNFINISHED).glob("*.lock")
    second = threading.Thread(
        target=suggest_labels, args=(MODEL, settings_of(tmp_path, "second.csv"))
    )
    make_log(tmp_path, 20)
    with FileLock(lock):
        second.start()
        second.join(1.0)
        assert not (tmp_path / "second.csv").exists()
    second.join(60.0)
    assert len((tmp_path / "second.csv").read_text(encoding="utf-8").splitlines()) == 21


def test_a_written_request_is_kept_after_a_kill(tmp_path: Path) -> None:
    """The process dies after the folder was written, before the end of the request is noted."""
    store, _ = make_log(tmp_path, 20)
    settings, folder = WatchSettings(name=MODEL), tmp_path / "request-000001"
    request = request_labels(store, MODEL, 10, folder, settings)
    reasons = dict.fromkeys((line.split(",")[0] for line in table_of(folder)), "random")
    with store.reading() as connection:
        at = connection.exec_driver_sql("SELECT min(at) FROM suggestions").scalar()
    intent = {"target": f"{folder.name}/{COUNTS}", "at": at, "reasons": reasons}
    (tmp_path / INTENT).write_text(json.dumps(intent))
    assert request_labels(store, MODEL, 10, folder, settings) == request
    assert count_rows(store, "suggestions") == 10
    assert not (tmp_path / INTENT).exists()


def table_of(folder: Path) -> list[str]:
    """Return the rows of a request's table without its header."""
    return (folder / TABLE).read_text(encoding="utf-8").splitlines()[1:]
