"""Which study's settings a training run takes, and what it logs about it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from eyevsai.config import compose_train
from eyevsai.core.errors import UserError
from eyevsai.core.names import ModelName
from eyevsai.models.deep_v1.settings import DeepV1Settings
from eyevsai.models.shallow.settings import SvmSettings
from eyevsai.models.transfer.settings import TransferSettings
from eyevsai.store.uris import find_store
from eyevsai.workflows.train.setup import adapt_batch_size, adapt_small_crops
from eyevsai.workflows.train.tuned_settings import (
    UNCHANGED,
    describe_tuned,
    find_blockers,
    format_changes,
    use_tuned,
)

NAME = ModelName("pets", "deep_v1", "standard")
DEFAULTS = {"trial": 0, "state": "complete", "accuracy": 0.74, "epochs": 70}
EARNED = {
    "trial": 7,
    "run_id": "0" * 32,
    "accuracy": 0.81,
    "epochs": 70,
    "complete": 20,
    "defaults": DEFAULTS,
    "settings": {"lr": 0.0112345, "width": 48, "epochs": 70, "dropout": 0.2},
    "searched": ["lr", "width", "dropout"],
}


@pytest.fixture(autouse=True)
def lines(
    workplace: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("eyevsai"), "propagate", True)
    caplog.set_level(logging.INFO, "eyevsai")


def write_study(
    best: dict[str, Any] | None = EARNED, study: str = "pets-deep_v1-standard", **settings: Any
) -> str:
    """Write the run of a finished study as `tune` does."""
    client = MlflowClient()
    tags = {"eyevsai.job": "tune", "study": study, **vars(NAME), "preset": "cpu", **settings}
    run_id: str = client.create_run("0", tags=tags).info.run_id
    if best is not None:
        client.log_text(run_id, json.dumps(best), "best.json")
    client.set_terminated(run_id)
    return run_id


def use(
    caplog: pytest.LogCaptureFixture, **given: Any
) -> tuple[dict[str, Any], str | None, str, list[str]]:
    """The settings of `train` with these flags, the study's run, what it changed, and the lines."""
    caplog.clear()
    config, run_id = use_tuned(
        compose_train({"model": "deep_v1", "data": "/pets", **given}), NAME, find_store()
    )
    return (
        vars(config.model.settings),
        run_id,
        describe_tuned(config),
        [each.getMessage() for each in caplog.records],
    )


def test_data_does_not_change_what_a_study_found() -> None:
    """Its best trial may have the defaults, which the data would change without a study."""
    defaults = DeepV1Settings()
    found = {"crop_scale": defaults.crop_scale, "batch_size": defaults.batch_size}
    write_study({**EARNED, "settings": {**found, "lr": defaults.lr}, "searched": list(found)})
    given = {"model": "deep_v1", "data": "/pets", "epochs": 20, "image_size": 32, "preset": "cpu"}
    plain = compose_train(given)
    assert adapt_small_crops(plain) != plain
    assert adapt_batch_size(plain, 40_000) != plain
    config, study = use_tuned(compose_train({**given, "tuned": "auto"}), NAME, find_store())
    assert study is not None
    assert adapt_small_crops(config) == config
    assert adapt_batch_size(config, 40_000) == config


def test_study_that_is_better_than_the_defaults_is_used(caplog: pytest.LogCaptureFixture) -> None:
    run_id = write_study()
    settings, used, changed, lines = use(caplog)
    assert (settings["lr"], settings["width"], settings["epochs"], used) == (
        0.0112345,
        48,
        70,
        run_id,
    )
    assert lines == [
        f"Using the settings of study pets-deep_v1-standard (run {run_id}; 20 complete trials, "
        "valid accuracy 0.8100, defaults 0.7400): lr 0.006 -> 0.01123, width 32 -> 48. "
        "--tuned never keeps the defaults."
    ]
    assert changed == "lr 0.006 -> 0.01123, width 32 -> 48"


def test_flags_stay_beside_a_study(caplog: pytest.LogCaptureFixture) -> None:
    write_study()
    settings, _, changed, _ = use(caplog, lr=0.5)
    assert (settings["lr"], settings["width"], changed) == (0.5, 48, "width 32 -> 48")
    assert use(caplog, lr=0.5, width=4)[2] == UNCHANGED


def test_no_study_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    assert use(caplog)[1:] == (None, UNCHANGED, [])
    write_study()
    assert use(caplog, tuned="never")[1:] == (None, UNCHANGED, [])


REFUSED = [
    ({"complete": 9}, "it has 9 complete trials of the 10 required"),
    ({"complete": 1}, "it has 1 complete trial of the 10 required"),
    (
        {"epochs": 34, "defaults": {**DEFAULTS, "epochs": 34}},
        "its trials have 34 epochs, less than half of the 70 training epochs",
    ),
    (
        {"accuracy": 0.74},
        "its best valid accuracy 0.7400 is not above that of the defaults, 0.7400 (trial 0)",
    ),
    (
        {"defaults": {**DEFAULTS, "accuracy": None, "state": "fail"}},
        "its trial 0 with the default settings has no result (fail)",
    ),
    (
        {"defaults": None},
        "it has no trial with the default settings, because an earlier version started it",
    ),
    (
        {"complete": 2, "epochs": 1},
        "it has 2 complete trials of the 10 required; its trials have 1 epoch, less than half of "
        "the 70 training epochs",
    ),
]


@pytest.mark.parametrize(("change", "reason"), REFUSED)
def test_study_that_has_not_earned_it_is_used_only_by_name(
    caplog: pytest.LogCaptureFixture, change: dict[str, Any], reason: str
) -> None:
    run_id = write_study({**EARNED, **change})
    settings, used, changed, lines = use(caplog)
    assert (settings["lr"], used, changed) == (0.006, None, UNCHANGED)
    assert lines == [
        f"Study pets-deep_v1-standard is not used: {reason}. Use it anyway with --tuned "
        "pets-deep_v1-standard."
    ]
    for name in ("pets-deep_v1-standard", run_id):
        settings, used, changed, lines = use(caplog, tuned=name)
        assert (settings["lr"], used, changed) == (
            0.0112345,
            run_id,
            "lr 0.006 -> 0.01123, width 32 -> 48",
        )
        assert lines[0] == (
            "Study pets-deep_v1-standard is used because --tuned names it; --tuned auto would "
            f"not use it: {reason}."
        )
        assert len(lines) == 2
        assert "lr 0.006 -> 0.01123" in lines[1]


def test_study_of_an_earlier_version_is_used_only_by_name(caplog: pytest.LogCaptureFixture) -> None:
    old = {name: EARNED[name] for name in ("trial", "run_id", "accuracy", "settings")}
    old["settings"] = {**old["settings"], "epochs": 1}
    run_id = write_study(old)
    _, used, _, (line,) = use(caplog)
    assert (used, "because an earlier version started it" in line) == (None, True)
    _, used, changed, lines = use(caplog, tuned=run_id)
    assert (used, changed) == (run_id, "lr 0.006 -> 0.01123, width 32 -> 48")
    assert f"(run {run_id}; valid accuracy 0.8100)" in lines[1]


def test_toy_study_does_not_hide_an_older_one(caplog: pytest.LogCaptureFixture) -> None:
    earned = write_study()
    write_study({**EARNED, "complete": 2}, study="toy")
    write_study({**EARNED, "complete": 3}, study="another")
    write_study(preset="gpu")
    _, used, _, (refused, taken) = use(caplog)
    assert used == earned
    assert refused.startswith("Study another is not used: it has 3 complete trials")
    assert taken.startswith("Using the settings of study pets-deep_v1-standard")


def test_study_without_a_result_or_against_the_flags_is_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_study(None)
    assert use(caplog)[1:] == (
        None,
        UNCHANGED,
        ["Study pets-deep_v1-standard is not used: its run has no best.json."],
    )
    with pytest.raises(UserError, match=r"has no best\.json. Use --tuned never"):
        use(caplog, tuned="pets-deep_v1-standard")
    with pytest.raises(UserError, match=r"--tuned nothing: .* has no finished study or run"):
        use(caplog, tuned="nothing")
    # as a version with other limits wrote it
    write_study({**EARNED, "settings": {"lr": 7.0}, "searched": ["lr"]})
    _, used, _, (line,) = use(caplog)
    assert used is None
    assert "its settings conflict with the options (--lr 7.0 is not allowed" in line
    with pytest.raises(UserError, match=r"--lr 7\.0 is not allowed"):
        use(caplog, tuned="pets-deep_v1-standard")


def objections(plain: Any, tuned: Any, trial: int | None, defaults: int | None) -> list[str]:
    return find_blockers(
        {**EARNED, "epochs": trial, "defaults": {**DEFAULTS, "epochs": defaults}}, plain, tuned
    )


def test_trials_have_at_least_half_of_the_epochs_of_training() -> None:
    plain, longer = DeepV1Settings(), DeepV1Settings(epochs=141)
    assert objections(plain, plain, 35, 35) == []
    assert objections(plain, plain, 34, 34) == [
        "its trials have 34 epochs, less than half of the 70 training epochs"
    ]
    assert objections(longer, longer, 70, 70) == [
        "its trials have 70 epochs, less than half of the 141 training epochs"
    ]
    assert objections(SvmSettings(), SvmSettings(), None, None) == []


def test_searched_epochs_are_those_of_the_best_trial(caplog: pytest.LogCaptureFixture) -> None:
    # 6 epochs beat the 18 of the defaults, and training has 6, too
    short = TransferSettings(freeze_epochs=5, fine_tune_epochs=1)
    assert objections(TransferSettings(), short, 6, 18) == []
    # the space allowed no more than 2, so that nothing was compared to what 70 would reach
    assert objections(DeepV1Settings(), DeepV1Settings(epochs=2), 2, 2) == [
        "its trials have 2 epochs, less than half of the 70 training epochs"
    ]
    searched = {**EARNED, "epochs": 90, "searched": ["lr", "epochs"]}
    write_study({**searched, "settings": {"lr": 0.01, "epochs": 90}})
    assert use(caplog)[2] == "lr 0.006 -> 0.01, epochs 70 -> 90"
    assert use(caplog, epochs=140)[2] == "lr 0.006 -> 0.01"
    assert use(caplog, epochs=141)[1] is None


def test_epochs_that_were_a_flag_of_the_study_are_not_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    short = {**EARNED, "epochs": 40, "defaults": {**DEFAULTS, "epochs": 40}}
    write_study(
        {**short, "settings": {"lr": 0.01, "epochs": 40, "image_size": 64}, "searched": ["lr"]}
    )
    settings, _, changed, _ = use(caplog)
    assert settings["epochs"] == 70
    assert changed == "image_size 96 -> 64, lr 0.006 -> 0.01"


def test_changes_have_four_digits() -> None:
    changes = {"a": (0.123456, 12345.6), "b": (None, True), "c": ("rbf", "poly"), "d": (1e-5, 200)}
    assert (
        format_changes(changes)
        == "a 0.1235 -> 1.235e+04, b none -> true, c rbf -> poly, d 1e-05 -> 200"
    )


@pytest.mark.parametrize(
    ("best", "reason"),
    [
        ({}, "its trials had no time budget"),
        ({"minutes": 2}, "its trials have 2 minutes, less than half of the 6 training minutes"),
        ({"minutes": 3}, None),
    ],
)
def test_lengths_of_timed_trainings_are_compared_in_minutes(
    caplog: pytest.LogCaptureFixture, best: dict[str, Any], reason: str | None
) -> None:
    run_id = write_study({**EARNED, **best})
    _, used, _, lines = use(caplog, minutes=6.0)
    assert used == (None if reason else run_id)
    assert reason is None or any(reason in line for line in lines)
