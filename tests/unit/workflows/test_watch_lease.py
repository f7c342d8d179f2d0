"""The lease of a watcher that was suspended, or whose inference log was away."""

from __future__ import annotations

from pathlib import Path

import pytest

from eyevsai.core.errors import JobError
from eyevsai.inference_log.coordination import Coordination, Lease
from eyevsai.inference_log.database import LogUnavailableError
from eyevsai.inference_log.store import LogStore
from eyevsai.workflows.watch import lease as lease_module
from eyevsai.workflows.watch.lease import HeldLease

NAME = "retraining/digits"


@pytest.fixture(autouse=True)
def _paused_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread that renews does not run, as after a suspension; each check is late."""
    monkeypatch.setattr(lease_module, "RENEW_S", 3600.0)


def hold(folder: Path) -> tuple[HeldLease, Coordination]:
    coordination = Coordination(LogStore.open(f"sqlite:///{folder / 'log.db'}"))
    lease = coordination.acquire_lease(NAME, "a", 60.0)
    assert lease is not None
    return HeldLease(coordination, NAME, "a", lease), coordination


def test_lease_that_another_watcher_took_over_is_noticed_at_once(tmp_path: Path) -> None:
    current, coordination = hold(tmp_path)
    current.check()
    coordination.release_lease(current.lease)  # as if its time was over
    assert isinstance(coordination.acquire_lease(NAME, "b", 60.0), Lease)
    with pytest.raises(JobError, match="took over"):
        current.check()
    current.end()
    assert coordination.acquire_lease(NAME, "a", 60.0) is None


def test_nothing_is_changed_while_the_lease_cannot_be_renewed(tmp_path: Path) -> None:
    current, coordination = hold(tmp_path)
    coordination.database.close()
    (tmp_path / "log.db").rename(tmp_path / "moved.db")
    (tmp_path / "log.db").mkdir()
    with pytest.raises(LogUnavailableError):
        current.check()
    current.end()
