from __future__ import annotations

import threading
from pathlib import Path

import pytest

from eyevsai.config import compose_train
from eyevsai.core.errors import UserError
from eyevsai.data.parallel import IMPORTING
from eyevsai.workflows import job_context
from eyevsai.workflows.train import train as module


@pytest.mark.parametrize("given", [{}, {"resume": "auto"}])
def test_the_store_is_opened_when_nothing_is_being_imported(
    workplace: Path, stripes: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    join, joined = threading.Thread.join, threading.Event()

    def note_join(thread: threading.Thread, timeout: float | None = None) -> None:
        if thread.name == IMPORTING:
            joined.set()
        join(thread, timeout)

    def open_store() -> str:
        assert not [thread for thread in threading.enumerate() if thread.name == IMPORTING]
        raise UserError("opened")

    # as long as nobody waits for it
    monkeypatch.setattr(module, "import_module", lambda name: joined.wait(60))
    monkeypatch.setattr(threading.Thread, "join", note_join)
    monkeypatch.setattr(job_context, "open_store", open_store)
    with pytest.raises(UserError, match="opened"):
        module.train(
            compose_train({"data": str(stripes), "image_size": 32, "batch_size": 8, **given})
        )
