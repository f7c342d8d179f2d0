"""Requirement 14: eight processes on one study, three of them killed; it goes on and has exactly
what was asked for.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eyevsai.models.shallow.settings import SvmSettings
from eyevsai.store.run_dir import RunDir
from eyevsai.tracking.liveness import is_stale
from eyevsai.tuning.search_space import build_search_space
from eyevsai.tuning.settings import TuneSettings
from eyevsai.tuning.study import Study, StudyStorage
from tests.conftest import ROOT
from tests.forks import join_forks, start_fork

SPACE = build_search_space(SvmSettings, {}, None)
TUNERS, KILLED = 8, 3
TUNER = """
import sys
from pathlib import Path
from tests.robustness.test_study import tune
tune(Path(sys.argv[1]), sys.argv[2] or None, int(sys.argv[3]), int(sys.argv[4]))
"""


def open_study(folder: Path, url: str | None, count: int) -> Study:
    study = Study(
        "row14",
        StudyStorage(url, folder / "row14.journal"),
        TuneSettings(n_trials=count, parallel_jobs=TUNERS),
        SPACE,
        1,
    )
    study.check_or_store_space(SPACE.describe())
    return study


def tune(folder: Path, url: str | None, count: int, worker: int) -> None:
    """What each process does: trials that take a twentieth of a second."""
    import json

    from eyevsai.tracking.liveness import describe_process

    study, process = open_study(folder, url, count), json.dumps(describe_process())
    while True:
        study.reap_stale_trials(
            lambda described, run_id: is_stale(described, RunDir(folder, "none")),
            lambda run_id: None,
        )
        trial = study.ask(0, worker, process)
        if trial is None:
            if study.is_done():
                return
            time.sleep(0.1)
            continue
        values = SPACE.suggest(trial, SvmSettings())
        time.sleep(0.05)
        study.tell(trial, 1 / (1 + values["C"]))


@pytest.mark.requirement(14)
@pytest.mark.processes("one of several tuners is killed; they are forks, which import nothing")
@pytest.mark.parametrize("storage", ["file", "sqlite"])
def test_killed_fork_loses_and_doubles_no_trial(tmp_path: Path, storage: str) -> None:
    url, count = f"sqlite:///{tmp_path}/studies.db" if storage == "sqlite" else None, 16
    watched = open_study(tmp_path, url, count)
    if url:
        watched.storage.engine.dispose()  # no child may use a connection of its parent
    tuners = [start_fork(tune, tmp_path, url, count, worker) for worker in range(3)]
    deadline = time.monotonic() + 100
    while sum(trial.state.is_finished() for trial in watched.trials()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tuners[0].kill()
    assert join_forks(tuners) == [-9, 0, 0]
    assert [trial.state.name for trial in watched.counted_trials()] == ["COMPLETE"] * count
    numbers = [trial.number for trial in watched.trials()]
    assert len(numbers) == len(set(numbers))


@pytest.mark.requirement(14)
@pytest.mark.slow
@pytest.mark.parametrize("count", [40, 160])
@pytest.mark.parametrize("storage", ["file", "sqlite"])
def test_killed_tuners_lose_and_double_no_trial(tmp_path: Path, storage: str, count: int) -> None:
    url = f"sqlite:///{tmp_path}/studies.db" if storage == "sqlite" else ""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TUNER, str(tmp_path), url, str(count)]
    tuners = [
        subprocess.Popen([*command, str(worker)], env=environment, cwd=ROOT)
        for worker in range(TUNERS)
    ]
    watched = open_study(tmp_path, url or None, count)
    deadline = time.monotonic() + 200
    while sum(trial.state.is_finished() for trial in watched.trials()) < count // 4:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for tuner in random.Random(0).sample(tuners, KILLED):
        tuner.kill()
    codes = sorted(tuner.wait(250) for tuner in tuners)
    assert codes == [-9] * KILLED + [0] * (TUNERS - KILLED)
    states = [trial.state.name for trial in watched.counted_trials()]
    assert states == ["COMPLETE"] * count
    numbers = [trial.number for trial in watched.trials()]
    assert len(numbers) == len(set(numbers))
    best = watched.best()
    assert best is not None
    assert best.value == max(trial.value for trial in watched.counted_trials())
