"""Answers that were selected for labelling, but whose file cannot be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyevsai.core.errors import UserError
from eyevsai.inference_log.settings import SuggestSettings
from eyevsai.workflows.feedback.suggest import suggest_labels
from eyevsai.workflows.watch.requests import request_labels
from eyevsai.workflows.watch.settings import WatchSettings
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
