"""A study counts its trials, goes on, and says what went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from matplotlib import pyplot

from eyevsai.core.errors import JobError, TrialPruned, UserError
from eyevsai.models.shallow.settings import SvmSettings
from eyevsai.tuning import study as module
from eyevsai.tuning.search_space import build_search_space
from eyevsai.tuning.settings import TuneSettings
from eyevsai.tuning.study import RUN_ID, Study, StudyStorage, Trial
from eyevsai.tuning.visualization import describe_best, plot_study, render_page, trials_table

SPACE = build_search_space(SvmSettings, {}, None)


def no_result(run_id: str) -> None:
    """No trial's run was finished."""


def open_study(folder: Path, name: str = "study", epochs: int = 1, **settings: Any) -> Study:
    study = Study(
        name,
        StudyStorage(None, folder / "studies.journal"),
        TuneSettings(**settings),
        SPACE,
        epochs,
    )
    study.check_or_store_space({"space": SPACE.describe()})
    return study


def work(study: Study, at_most: int = 1000, seed: int = 0) -> list[dict[str, Any]]:
    """Values that are higher for a weight of errors near 10."""
    drawn = []
    while at_most and (trial := study.ask(seed, 0, "process")) is not None:
        values = study.space.suggest(trial, SvmSettings())
        trial.set_user_attr("settings", values)
        study.tell(trial, 1 / (1 + abs(values["C"] - 10)))
        drawn.append(values)
        at_most -= 1
    return drawn


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes", "grid"])
def test_every_sampler_draws_as_many_trials_as_were_asked_for(tmp_path: Path, sampler: str) -> None:
    study = open_study(tmp_path, sampler=sampler, n_trials=12)
    drawn = work(study)
    assert len(drawn) == len(study.counted_trials()) == 12
    assert study.is_done()
    best = study.best()
    assert best is not None
    assert best.value == max(trial.value for trial in study.counted_trials())
    assert len({values["C"] for values in drawn}) > 1


@pytest.mark.parametrize("sampler", ["tpe", "random", "gp", "cmaes", "grid"])
def test_the_first_trial_has_the_defaults(tmp_path: Path, sampler: str) -> None:
    study = open_study(tmp_path, sampler=sampler, n_trials=4)
    assert study.enqueue_defaults(SvmSettings()) == {}
    drawn = work(study, at_most=2)
    again = open_study(tmp_path, sampler=sampler, n_trials=4)
    assert again.enqueue_defaults(SvmSettings()) == {}
    drawn += work(again)
    defaults = {"reduction": "pca", "components": 300, "C": 3.0, "kernel": "rbf"}
    assert [values == defaults for values in drawn] == [True, False, False, False]
    first, best = again.defaults(), again.best()
    assert first is not None
    assert best is not None
    assert (first.number, first.params, len(again.counted_trials())) == (0, defaults, 4)
    described = describe_best(again, best)
    told = {"trial": 0, "state": "complete", "accuracy": 1 / 8, "epochs": None}
    assert (described["complete"], described["defaults"]) == (4, told)
    assert set(described["searched"]) == {"reduction", "components", "C", "kernel", "degree"}


def test_defaults_that_were_lost_are_begun_again(tmp_path: Path) -> None:
    study = open_study(tmp_path, n_trials=3)
    study.enqueue_defaults(SvmSettings())
    interrupted = study.ask(0, 0, "p")
    assert interrupted is not None
    study.tell(interrupted, KeyboardInterrupt())  # before anything was chosen for it
    assert study.ask(0, 0, "dead") is not None
    assert study.reap_stale_trials(lambda process, run_id: process == "dead", no_result) == 1
    drawn = work(study)
    assert (len(drawn), drawn[0]["C"], drawn[0]["components"]) == (3, 3.0, 300)
    defaults = study.defaults()
    assert defaults is not None
    assert defaults.number == 2


def test_defaults_whose_process_died_before_they_were_queued_again_are_queued(
    tmp_path: Path,
) -> None:
    study = open_study(tmp_path, n_trials=2)
    study.enqueue_defaults(SvmSettings())
    assert study.ask(0, 0, "p") is not None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.study, "enqueue_trial", lambda *_, **__: None)
        assert study.reap_stale_trials(lambda process, run_id: True, no_result) == 1
    again = open_study(tmp_path, n_trials=2)
    again.enqueue_defaults(SvmSettings())
    assert [values["C"] == 3.0 for values in work(again)] == [True, False]


def test_defaults_that_two_processes_queued_run_once(tmp_path: Path) -> None:
    study, other = open_study(tmp_path, n_trials=3), open_study(tmp_path, n_trials=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(other, "trials", list)  # it looked before the first queued its own
        for each in (study, other):
            each.enqueue_defaults(SvmSettings())
    drawn = work(study)
    assert [values["C"] == 3.0 for values in drawn] == [True, False, False]
    assert len(study.counted_trials()) == 3


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_gone_on_with_is_the_one_that_nobody_interrupted(
    tmp_path: Path, sampler: str
) -> None:
    whole = work(open_study(tmp_path / "whole", sampler=sampler, n_trials=14))
    parts = work(open_study(tmp_path / "parts", sampler=sampler, n_trials=14), at_most=6)
    parts += work(open_study(tmp_path / "parts", sampler=sampler, n_trials=14))
    assert parts == whole
    assert len({values["C"] for values in whole}) == 14
    assert work(open_study(tmp_path / "other", sampler=sampler, n_trials=14), seed=1) != whole


def test_more_trials_are_added_to_a_finished_study(tmp_path: Path) -> None:
    work(open_study(tmp_path, n_trials=3))
    assert len(work(open_study(tmp_path, n_trials=5))) == 2
    assert work(open_study(tmp_path, n_trials=4)) == []


def test_a_trial_whose_process_died_before_it_said_who_it_is_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(tmp_path, n_trials=2)
    study.study.ask()  # and killed before its name is written
    assert study.reap_stale_trials(lambda process, run_id: False, no_result) == 0
    monkeypatch.setattr(module, "NAMELESS_S", 0.0)
    assert study.reap_stale_trials(lambda process, run_id: False, no_result) == 1
    assert len(work(study)) == 2
    assert study.is_done()


def test_a_trial_that_waits_keeps_its_place(tmp_path: Path) -> None:
    study = open_study(tmp_path, n_trials=1)

    def take_past_one_that_was_just_queued() -> Trial:
        study.study.enqueue_trial({})
        return Trial(study.study, study.storage.create_new_trial(study.study._study_id))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study.study, "ask", take_past_one_that_was_just_queued)
        assert study.ask(0, 0, "late") is None
    assert len(work(study)) == 1
    assert study.is_done()


def test_a_trial_whose_run_was_finished_when_its_process_died_is_not_begun_again(
    tmp_path: Path,
) -> None:
    study = open_study(tmp_path, n_trials=2)
    done, lost = study.ask(0, 0, "dead"), study.ask(0, 0, "dead")
    assert done is not None
    assert lost is not None
    for trial, run_id in ((done, "finished"), (lost, "running")):
        SPACE.suggest(trial, SvmSettings())
        trial.set_user_attr(RUN_ID, run_id)
    assert study.reap_stale_trials(lambda process, run_id: True, {"finished": 0.75}.get) == 1
    assert len(work(study)) == 1
    assert next(iter(study.counted_trials())).value == 0.75
    assert study.is_done()


def test_a_trial_of_a_dead_process_is_begun_again(tmp_path: Path) -> None:
    study = open_study(tmp_path, n_trials=3)
    lost = study.ask(0, 0, "dead")
    assert lost is not None
    values = SPACE.suggest(lost, SvmSettings())
    assert study.ask(0, 0, "alive") is not None
    assert study.reap_stale_trials(lambda process, run_id: process == "dead", no_result) == 1
    assert study.reap_stale_trials(lambda process, run_id: process == "dead", no_result) == 0
    again = study.ask(0, 0, "alive")
    assert again is not None
    assert SPACE.suggest(again, SvmSettings()) == values
    study.tell(again, 0.5)
    assert len(work(study)) == 1
    numbers = [trial.number for trial in study.trials()]
    assert numbers == sorted(set(numbers))
    assert len(study.counted_trials()) == 3


def test_an_interrupted_trial_is_begun_again(tmp_path: Path) -> None:
    study = open_study(tmp_path, n_trials=2)
    trial = study.ask(0, 0, "p")
    assert trial is not None
    values = SPACE.suggest(trial, SvmSettings())
    study.tell(trial, KeyboardInterrupt())
    assert work(study)[0] == values
    assert len(study.counted_trials()) == 2


def test_failures_are_told_and_not_scored(tmp_path: Path) -> None:
    study = open_study(tmp_path, n_trials=4)
    for outcome in (
        ValueError("too hot"),
        ValueError("too cold"),
        TrialPruned("late"),
        ValueError("too hot"),
    ):
        trial = study.ask(0, 0, "p")
        assert trial is not None
        trial.set_user_attr("settings", SPACE.suggest(trial, SvmSettings()))
        study.tell(trial, outcome)
    assert study.best() is None
    with pytest.raises(JobError, match="2 of 4: too hot"):
        study.require_best()
    columns, rows = trials_table(study.counted_trials())
    table = [dict(zip(columns, row, strict=True)) for row in rows]
    assert [row["state"] for row in table] == ["fail", "fail", "pruned", "fail"]
    assert [row["error"] for row in table] == ["too hot", "too cold", "", "too hot"]


def test_a_study_of_another_space_is_refused_with_a_new_name(tmp_path: Path) -> None:
    open_study(tmp_path)
    other = Study(
        "study", StudyStorage(None, tmp_path / "studies.journal"), TuneSettings(), SPACE, 1
    )
    changed = {**SPACE.describe(), "C": {"low": 1}}
    with pytest.raises(UserError, match=r"1 changed \(space\).*--study study-2"):
        other.check_or_store_space({"space": changed})


def test_a_storage_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be used.*--storage"):
        StudyStorage(None, tmp_path / "file" / "x.journal").open()
    with pytest.raises(UserError, match="cannot be used"):
        StudyStorage("sqlite:////proc/none.db", tmp_path).open()
    with pytest.raises(UserError, match=r"user:\*\*\*@nowhere"):
        StudyStorage("postgresql://user:secret@nowhere:1/db", tmp_path).open()


def test_a_read_only_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    StudyStorage(f"sqlite:///{path}", tmp_path).open()
    storage = StudyStorage(f"sqlite:///file:{path}?mode=ro&uri=true", tmp_path)
    with pytest.raises(UserError, match=r"cannot be used .*--storage"):
        Study("study", storage, TuneSettings(), SPACE, 1)


def test_the_outcome_of_a_reaped_trial_is_not_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = open_study(tmp_path, n_trials=2)
    for outcome in (0.9, ValueError("too hot"), TrialPruned("late")):
        trial = study.ask(0, 0, "paused")
        assert trial is not None
        trial.set_user_attr("settings", SPACE.suggest(trial, SvmSettings()))
        assert study.reap_stale_trials(lambda process, run_id: True, no_result) == 1
        study.tell(trial, outcome)
    assert caplog.text.count("another process ended the trial") == 3
    assert study.best() is None
    assert len(work(study)) == 2


def test_what_a_study_found_is_drawn_and_told(tmp_path: Path) -> None:
    study = open_study(tmp_path, n_trials=8)
    work(study)
    best = study.best()
    assert best is not None
    assert describe_best(study, best)["settings"]["C"] == pytest.approx(best.params["C"])
    drawn = plot_study(study.study)
    assert not pyplot.get_fignums()  # which would keep them
    assert set(drawn) == {
        "optimization_history",
        "parallel_coordinate",
        "slice",
        "param_importances",
    }
    page = render_page(study.study)
    assert page.count("plotly-graph-div") >= 4
    assert "<script src=" not in page  # it needs nothing else
