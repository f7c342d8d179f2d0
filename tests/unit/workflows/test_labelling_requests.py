"""Answers that were selected for labelling, but whose file was never written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from eyevsai.core.errors import UserError
from eyevsai.inference_log.settings import SuggestSettings
from eyevsai.workflows.feedback.suggest import suggest_labels
from eyevsai.workflows.watch.requests import INTENT, TABLE, request_labels
from eyevsai.workflows.watch.settings import WatchSettings
from tests.conftest import ROOT
from tests.unit.inference_log.records import MODEL, count_rows, make_log


def test_answers_of_an_unwritable_file_are_selected_again(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 20)
    url = f"sqlite:///{tmp_path / 'log.db'}"
    missing = str(tmp_path / "missing" / "labels.csv")
    with pytest.raises(UserError, match="missing"):
        suggest_labels(MODEL, SuggestSettings(log=url, file=missing))
    assert count_rows(store, "suggestions") == 0
    path, counts = suggest_labels(
        MODEL, SuggestSettings(log=url, file=str(tmp_path / "labels.csv"))
    )
    assert sum(counts.values()) == count_rows(store, "suggestions") == 20
    assert len(path.read_text(encoding="utf-8").splitlines()) == 21


def test_answers_of_an_unwritable_request_are_selected_again(tmp_path: Path) -> None:
    store, _ = make_log(tmp_path, 20)
    settings = WatchSettings(name=MODEL)
    (tmp_path / "file").touch()
    with pytest.raises(UserError):
        request_labels(store, MODEL, 10, tmp_path / "file" / "request-000001", settings)
    assert count_rows(store, "suggestions") == 0
    request = request_labels(store, MODEL, 10, tmp_path / "request-000001", settings)
    assert request.count == count_rows(store, "suggestions") == 10


KILLED = """
import os, signal, sys
from pathlib import Path
from eyevsai.inference_log.store import LogStore
from eyevsai.workflows.watch import requests
from eyevsai.workflows.watch.settings import WatchSettings

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

folder, model, name = sys.argv[1:]
setattr(requests, name, die)
store = LogStore.open(f"sqlite:///{folder}/log.db")
settings = WatchSettings(name=model)
requests.request_labels(store, model, 10, Path(folder) / "request-000001", settings)
"""


@pytest.mark.processes("a watcher that is killed")
@pytest.mark.parametrize("name", ["record_selection", "write_suggestions", "write_tasks"])
def test_a_killed_request_loses_no_answer(name: str, tmp_path: Path) -> None:
    """All 20 answers can still be asked for after a kill before the files are written."""
    store, _ = make_log(tmp_path, 20)
    command = [sys.executable, "-c", KILLED, str(tmp_path), MODEL, name]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert (tmp_path / INTENT).is_file()
    # the next call asks under the same name or, if the state has changed meanwhile, a later one
    request = request_labels(
        store, MODEL, 20, tmp_path / "request-000003", WatchSettings(name=MODEL)
    )
    assert request.count == count_rows(store, "suggestions") == 20
    assert len((request.folder / TABLE).read_text(encoding="utf-8").splitlines()) == 21
    assert not (tmp_path / INTENT).exists()


def test_a_written_request_is_kept_after_a_kill(tmp_path: Path) -> None:
    """The process dies after the folder was written, before the end of the request is noted."""
    store, _ = make_log(tmp_path, 20)
    settings, folder = WatchSettings(name=MODEL), tmp_path / "request-000001"
    request = request_labels(store, MODEL, 10, folder, settings)
    reasons = dict.fromkeys((line.split(",")[0] for line in table_of(folder)), "random")
    with store.reading() as connection:
        at = connection.exec_driver_sql("SELECT min(at) FROM suggestions").scalar()
    intent = {"folder": folder.name, "at": at, "reasons": reasons}
    (tmp_path / INTENT).write_text(json.dumps(intent))
    assert request_labels(store, MODEL, 10, folder, settings) == request
    assert count_rows(store, "suggestions") == 10
    assert not (tmp_path / INTENT).exists()


def table_of(folder: Path) -> list[str]:
    """Return the rows of a request's table without its header."""
    return (folder / TABLE).read_text(encoding="utf-8").splitlines()[1:]
