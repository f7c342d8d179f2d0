"""What a person sees in MLflow's UI, in a real browser; `make test` opens one page, in
test_ui.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.conftest import SMALL_FOREST, Eyevsai, experiments

pytestmark = pytest.mark.slow


@pytest.mark.timeout(400)
def test_a_study_shows_its_trials_under_it(
    eyevsai: Eyevsai, workplace: Path, stripes: Path, screenshots: Any
) -> None:
    eyevsai("tune", *SMALL_FOREST, "--data", str(stripes), "--n-trials", "2", "--threads", "1")
    parent = next(
        run
        for run in MlflowClient().search_runs(experiments())
        if run.data.tags["eyevsai.job"] == "tune"
    )
    with screenshots.mlflow_ui(workplace) as address, screenshots.browser_page() as page:
        screenshots.open_study(page, address, "tune stripes-shallow-rf_hog_lbp")
        assert page.get_by_text("trial 1 stripes-shallow-rf_hog_lbp").count()
        screenshots.open_picture(page, address, parent.info.run_id, "optimization_history.png")
        assert page.get_by_text("Image classifiers by eyevsai").count()
        eyevsai("train", *SMALL_FOREST, "--data", str(stripes), "--threads", "1")
        columns = screenshots.open_best(page, address)
        assert {"best_valid_accuracy", "dataset", "model", "variation"} <= set(columns)
        assert page.locator(".ag-row").get_by_text("stripes-shallow-rf_hog_lbp-1").count()
        # trainings only
        assert not page.locator(".ag-row").get_by_text("tune stripes-shallow-rf_hog_lbp").count()
        assert not page.locator(".ag-row").get_by_text("trial").count()


@pytest.mark.timeout(600)
def test_a_models_page_follows_promotions_rollbacks_and_cleanups(
    eyevsai: Eyevsai, workplace: Path, screenshots: Any
) -> None:
    name, forced = "digits-deep_v1-standard", ("--force", "--reason", "to be looked at")
    for seed in ("0", "1", "2"):
        eyevsai("train", "--epochs", "1", "--width", "8", "--seed", seed, "--tuned", "never")
    with screenshots.mlflow_ui(workplace) as address, screenshots.browser_page() as page:

        def in_production() -> dict[str, bool]:
            rows = screenshots.open_model(page, address, name)
            return {row.split("\n")[0]: "@\xa0production" in row for row in rows}

        eyevsai("promote", name, "--version", "1", *forced)
        eyevsai("promote", name, "--version", "3", *forced)
        assert in_production() == {"Version 1": False, "Version 2": False, "Version 3": True}
        eyevsai("rollback", name)
        assert in_production() == {"Version 1": True, "Version 2": False, "Version 3": False}
        eyevsai("cleanup", "--keep", "1", "--yes")
        assert in_production() == {"Version 1": True, "Version 3": False}


@pytest.mark.timeout(600)
def test_two_runs_are_compared_and_one_is_promoted_by_its_alias(
    eyevsai: Eyevsai, workplace: Path, screenshots: Any
) -> None:
    name = "digits-deep_v1-standard"
    for run_name, width in (("narrow", "8"), ("wide", "16")):
        eyevsai(
            "train", "--run-name", run_name, "--width", width, "--epochs", "2", "--tuned", "never"
        )
    wide, narrow = MlflowClient().search_runs(experiments())
    eyevsai("promote", name, "--version", "1", "--force", "--reason", "the first")
    with screenshots.mlflow_ui(workplace) as address, screenshots.browser_page() as page:
        # as the list does
        runs = sorted((wide, narrow), key=lambda run: -run.data.metrics["best_valid_accuracy"])
        rows = screenshots.compare_runs(page, address, [run.info.run_name for run in runs])
        assert ["Run ID:", *(run.info.run_id for run in runs)] in rows
        assert ["Run Name:", *(run.info.run_name for run in runs)] in rows
        assert [
            "width",
            *({"narrow": "8", "wide": "16"}[run.info.run_name] for run in runs),
        ] in rows
        assert [
            "best_valid_accuracy",
            *(f"{run.data.metrics['best_valid_accuracy']:.3g}" for run in runs),
        ] in rows
        assert "epochs" not in {label for label, *_ in rows}  # of which both had two

        def versions() -> list[str]:
            return screenshots.open_model(page, address, name)

        for row, number, run in zip(versions(), (2, 1), (wide, narrow), strict=True):
            assert row.startswith(f"Version {number}\n")
            assert f"run_id\n: {run.info.run_id}" in row
            assert f"accuracy\n: {run.data.metrics['best_valid_accuracy']:.4f}" in row
        assert ["@\xa0production" in row for row in versions()] == [False, True]
        screenshots.give_alias(page, address, name, 2, "production")
        assert ["@\xa0production" in row for row in versions()] == [True, False]

        status = json.loads(eyevsai("registry", "status", name, "--json", code=1).stdout)
        shown = [(each["version"], each["stage"], each["by_hand"]) for each in status["versions"]]
        assert shown == [(2, "production", True), (1, "", False)]
        assert (
            "alias production is 2, stage Production is 1; the alias was set by hand"
            in status["disagreements"][0]
        )
        eyevsai("registry", "reconcile", name)
        eyevsai("registry", "status", name)  # nothing disagrees any more
        log = json.loads(eyevsai("registry", "log", name, "--json").stdout)
        changes = [(each["action"], each["before"], each["after"]) for each in log]
        assert changes == [("promote", None, 1), ("found", 1, 2)]
        for number, stage in ((1, "Archived"), (2, "Production")):
            screenshots.open_version(page, address, name, number)
            page.get_by_text(stage, exact=True).wait_for()


@pytest.mark.timeout(400)
def test_a_run_shows_its_curves_pictures_and_tables(
    eyevsai: Eyevsai, workplace: Path, screenshots: Any
) -> None:
    eyevsai("train", "--epochs", "2", "--width", "8")
    (run,) = MlflowClient().search_runs(experiments())
    eyevsai("evaluate", "--run", run.info.run_id, "--corruption-images", "0")
    with screenshots.mlflow_ui(workplace) as address, screenshots.browser_page() as page:
        screenshots.open_curves(page, address, run.info.run_id)
        assert page.get_by_text("digits-deep_v1-standard").count()
        assert page.locator("svg.main-svg .scatterlayer .trace").count() >= 4
        for name in ("curves.png", "confusion_matrix.png", "top_losses.png"):
            screenshots.open_picture(page, address, run.info.run_id, name)
            assert page.get_by_text(f"plots/{name}").count()
        screenshots.open_table(page, address, run.info.run_id, "test_classes.json")
        # class, precision, recall, f1 and support of ten digits
        assert page.get_by_role("cell").count() == 5 * 10
        screenshots.open_version(page, address, "digits-deep_v1-standard", 1)
