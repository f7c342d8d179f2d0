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


def test_peak_of_memory_is_in_mib() -> None:
    block = b"x" * (64 * 2**20)  # its pages are written, and so resident
    peak_mib = machine.peak_memory_mib()
    resident_mib = machine.psutil.Process().memory_info().rss / 2**20
    assert len(block) / 2**20 < peak_mib
    assert 0.9 * resident_mib < peak_mib < machine.psutil.virtual_memory().total / 2**20
