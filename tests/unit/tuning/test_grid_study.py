"""A study of a grid ends when each point has had a trial, whatever happens to its trials."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from eyevsai.models.shallow.settings import SvmSettings
from eyevsai.tuning.search_space import build_search_space
from eyevsai.tuning.settings import TuneSettings
from eyevsai.tuning.storage import StudyStorage
from eyevsai.tuning.study import Study, Trial

WEIGHTS = [1.0, 10.0, 100.0]


def open_study(
    folder: Path, *, n_trials: int = 50, weights: Any = WEIGHTS, url: str | None = None
) -> Study:
    path = folder / "space.toml"
    path.write_text(f"C = {weights}\nkernel = 'linear'\nreduction = 'none'\n")
    space = build_search_space(SvmSettings, {}, str(path))
    settings = TuneSettings(sampler="grid", n_trials=n_trials, parallel_jobs=2)
    storage = StudyStorage(url, folder / "studies.journal")
    return Study("grid", storage, settings, space, 1, defaults=SvmSettings())


def begin(study: Study, worker: int = 0, process: str = "process") -> tuple[Trial, float]:
    trial = study.ask(0, worker, process)
    assert trial is not None
    return trial, study.space.suggest(trial, SvmSettings())["C"]


def finish(study: Study, worker: int = 0) -> list[float]:
    values = []
    while (trial := study.ask(0, worker, "process")) is not None:
        values.append(study.space.suggest(trial, SvmSettings())["C"])
        study.tell(trial, 0.5)
    return values


def test_it_ends_before_the_number_of_trials(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    assert not study.is_grid_complete()
    assert study.num_remaining() == 3
    assert sorted(finish(study)) == WEIGHTS
    assert study.is_done()
    assert study.is_grid_complete()
    assert (study.num_remaining(), len(study.trials())) == (0, 3)
    again = open_study(tmp_path)
    assert again.is_done()
    assert again.ask(0, 0, "process") is None


def test_defaults_on_the_grid_are_one_of_its_points(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    assert study.enqueue_defaults(SvmSettings()) == {"C": (3.0, 1.0)}
    assert study.num_remaining() == 3
    values = finish(study)
    assert values[0] == 1.0
    assert sorted(values) == WEIGHTS


def test_defaults_beside_the_grid_are_one_trial_more(tmp_path: Path) -> None:
    study = open_study(tmp_path, weights="{low = 1.0, high = 100.0}")
    assert study.enqueue_defaults(SvmSettings()) == {}
    assert study.num_remaining() == 5
    values = finish(study)
    assert values[0] == 3.0
    assert values[1:] != sorted(values[1:])
    assert sorted(values[1:]) == pytest.approx([1.0, 100 ** (1 / 3), 100 ** (2 / 3), 100.0])


def test_fewer_trials_are_a_sample_that_a_resumed_study_completes(tmp_path: Path) -> None:
    weights = [float(number) for number in range(1, 21)]
    first = finish(open_study(tmp_path, n_trials=6, weights=weights))
    assert len(set(first)) == 6
    study = open_study(tmp_path, n_trials=30, weights=weights)
    assert not study.is_grid_complete()
    assert sorted(first + finish(study)) == weights
    assert study.is_grid_complete()


def test_a_failed_point_is_not_tried_again(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    trial, _ = begin(study)
    study.tell(trial, ValueError("too hot"))
    assert len(finish(study)) == 2
    assert study.is_done()
    assert Counter(trial.state for trial in study.started_trials()) == {
        TrialState.COMPLETE: 2,
        TrialState.FAIL: 1,
    }


def test_a_point_whose_settings_conflict_is_skipped(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    trial, _ = begin(study)
    study.skip(trial, "they conflict")
    assert len(finish(study)) == 2
    assert (study.is_done(), len(study.started_trials())) == (True, 2)


@pytest.mark.parametrize("is_chosen", [True, False])
def test_an_interrupted_point_is_tried_again(tmp_path: Path, is_chosen: bool) -> None:
    study = open_study(tmp_path)
    trial = study.ask(0, 0, "process")
    assert trial is not None
    if is_chosen:
        study.space.suggest(trial, SvmSettings())
    study.tell(trial, KeyboardInterrupt())
    assert study.num_remaining() == 3
    assert sorted(finish(open_study(tmp_path))) == WEIGHTS


def test_the_point_of_a_dead_process_is_tried_again(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    _, lost = begin(study, process="dead")
    values = finish(study)
    assert sorted([lost, *values]) == WEIGHTS
    assert not study.is_done()  # its trial still runs, as far as anybody knows
    assert study.reap_stale_trials(lambda process, _: process == "dead", lambda _: None) == 1
    assert finish(study) == [lost]
    assert study.is_done()


def test_a_point_that_waits_while_its_process_died_is_run(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    assert study.grid is not None
    study.study.enqueue_trial(study.grid.point(1))  # and the process died before it asked
    assert sorted(finish(open_study(tmp_path))) == WEIGHTS


@pytest.mark.parametrize("database", [False, True])
def test_processes_share_the_points(tmp_path: Path, database: bool) -> None:
    weights = [float(number) for number in range(1, 9)]
    url = f"sqlite:///{tmp_path / 'study.db'}" if database else None
    studies = [open_study(tmp_path, weights=weights, url=url) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        values = [value for part in pool.map(finish, studies, (0, 1)) for value in part]
    assert sorted(values) == weights
    assert studies[0].is_done()
    assert studies[0].is_grid_complete()
    assert len(studies[1].started_trials()) == 8


def test_a_point_that_two_processes_queued_runs_once(tmp_path: Path) -> None:
    study, other = open_study(tmp_path), open_study(tmp_path)
    assert study.grid is not None
    for each in (study, other):
        each.study.enqueue_trial(study.grid.point(0))
    values = [begin(study)[1], *finish(other, worker=1)]
    assert sorted(values) == WEIGHTS


def test_a_study_of_another_sampler_is_continued_on_the_grid(tmp_path: Path) -> None:
    study = open_study(tmp_path)
    study.settings, study.grid = TuneSettings(n_trials=1), None
    (drawn,) = finish(study)
    assert sorted([drawn, *finish(open_study(tmp_path))]) == WEIGHTS
