from __future__ import annotations

import pytest

from eyevsai.core import machine


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
