from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from eyevsai.config import compose_train
from eyevsai.data.workers import IMPORTING
from eyevsai.errors import UserError
from eyevsai.jobs import opening
from eyevsai.jobs import train as module


@pytest.mark.parametrize("given", [{}, {"resume": "auto"}])
def test_the_store_is_opened_when_nothing_is_being_imported(
    workplace: Path, stripes: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    def open_store() -> str:
        assert not [thread for thread in threading.enumerate() if thread.name == IMPORTING]
        raise UserError("opened")

    monkeypatch.setattr(module, "import_module", lambda name: time.sleep(3))
    monkeypatch.setattr(opening, "open_store", open_store)
    with pytest.raises(UserError, match="opened"):
        module.train(compose_train({"data": str(stripes), "image_size": 32, "batch_size": 8, **given}))
