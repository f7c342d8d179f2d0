"""Takes the pictures of README and docs: trains on digits, opens runs and models in MLflow's UI, in
headless Chromium.

python docs/screenshots.py            into docs/images/
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
ALL_METRICS_PX = 2400  # height of a window that shows all metrics of a comparison
MODEL = "digits-deep_v1-standard"
RUN = f"{MODEL}-1"
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def find_chromium() -> str | None:
    """Debian's Chromium, or another one on the path."""
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


@contextmanager
def mlflow_ui(folder: Path) -> Iterator[str]:
    """MLflow's UI over the store in `folder`, as `eyevsai ui` opens it, as an address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "eyevsai", "ui", "--port", str(port), "--no-browser"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    env["PYTHONPATH"] = str(ROOT)
    with (folder / "ui.log").open("w") as output:
        server = subprocess.Popen(
            command, cwd=folder, env=env, stdout=output, stderr=output, start_new_session=True
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(timeout=30)


def _wait_for(address: str, server: subprocess.Popen[bytes], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError("eyevsai ui did not start")


@contextmanager
def browser_page() -> Iterator[Page]:
    """A page of 1440 x 900 in headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=CHROMIUM_FLAGS)
        yield browser.new_page(viewport={"width": 1440, "height": 900})
        browser.close()


def find_experiment(address: str) -> str:
    """The id of the experiment of the last run."""
    experiments = _ask(f"{address}/api/2.0/mlflow/experiments/search?max_results=100")
    ids = [each["experiment_id"] for each in experiments["experiments"]]
    response = _ask(
        f"{address}/api/2.0/mlflow/runs/search",
        {
            "experiment_ids": ids,
            "filter": "tags.`dataset` != ''",
            "order_by": ["start_time DESC"],
            "max_results": 1,
        },
    )
    return str(response["runs"][0]["info"]["experiment_id"])


def find_run_page(address: str, run_id: str, tab: str = "") -> str:
    """The address of a run's page, and of one of its tabs."""
    run = _ask(f"{address}/api/2.0/mlflow/runs/get?run_id={run_id}")["run"]
    experiment_id = run["info"]["experiment_id"]
    return (
        f"{address}/#/experiments/{experiment_id}/runs/{run_id}{tab}?workflowType=machine_learning"
    )


def _ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def open_curves(page: Page, address: str, run_id: str) -> None:
    """The metrics page of a run, once its charts are drawn."""
    page.goto(find_run_page(address, run_id, "/model-metrics"))
    page.get_by_placeholder("Search metric charts").fill("(train|valid)/(accuracy|loss)")
    page.locator("svg.main-svg").nth(3).wait_for(timeout=60_000)
    _close_assistant(page)


def open_study(page: Page, address: str, name: str) -> None:
    """The list of runs with the trials of a study unfolded."""
    experiment_id = find_experiment(address)
    page.goto(f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning")
    cell = page.locator(".ag-cell-wrapper", has_text=name).first
    cell.wait_for(timeout=60_000)
    cell.locator("button").first.click()
    page.get_by_text("trial 0 ").first.wait_for(timeout=60_000)
    _close_assistant(page)


def open_best(page: Page, address: str) -> list[str]:
    """The view that `eyevsai ui` opens, once its rows are drawn; the names of its columns."""
    page.goto("about:blank")
    experiment_id = find_experiment(address)
    page.goto(
        f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey=eyevsai"
    )
    page.locator(".ag-row .ag-cell[col-id*='best_valid_accuracy']").first.wait_for(timeout=60_000)
    _close_assistant(page)
    # the order of the elements is not that on the screen
    names: list[str] = page.locator(".ag-header-cell").evaluate_all(
        "cells => cells.sort((a, b) => a.getBoundingClientRect().x - b.getBoundingClientRect().x)"
        ".map(cell => cell.innerText.trim()).filter(text => text)"
    )
    return names


def compare_runs(page: Page, address: str, names: Sequence[str]) -> list[list[str]]:
    """Select runs in the list and press Compare; return the rows of differing values, one cell per
    run.
    """
    open_best(page, address)
    for name in names:
        row = page.get_by_role("row").filter(has=page.get_by_text(name, exact=True))
        row.get_by_label("toggle row selection").check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare-runs*")
    page.goto(f"{page.url}&workflowType=machine_learning")  # Compare forgets which menu was open
    page.get_by_role("button", name="Visualizations").click()  # of a metric that nobody asked for
    for what in ("Parameters", "Metrics"):
        page.get_by_label(f"{what} - Show diff only").click()
    size = page.viewport_size
    assert size is not None
    # MLflow draws the metrics that the window shows
    page.set_viewport_size({"width": size["width"], "height": ALL_METRICS_PX})
    page.get_by_role("grid").get_by_role("link").first.wait_for()
    tables = [
        [cell.strip() for cell in row.split("\t")] for row in page.locator("tr").all_inner_texts()
    ]
    # MLflow draws them as cells, of which those at one height are a row
    metrics: dict[str, list[str]] = {}
    cells = page.get_by_role("grid").locator("[role=rowgroup] > div")
    for top, text in cells.evaluate_all(
        "cells => cells.map(cell => [cell.style.top, cell.innerText])"
    ):
        metrics.setdefault(top, []).append(text)
    page.set_viewport_size(size)
    return [*tables, *metrics.values()]


def open_picture(page: Page, address: str, run_id: str, name: str) -> None:
    """A picture among a run's artifacts, once it is loaded."""
    page.goto("about:blank")  # a change of the address behind # alone would keep the page before it
    page.goto(find_run_page(address, run_id, f"/artifacts/plots/{name}"))
    page.get_by_text(f"plots/{name}").first.wait_for(timeout=60_000)
    page.wait_for_function(
        "[...document.images].some(image => image.naturalWidth > 300 && image.complete)",
        timeout=60_000,
    )
    _close_assistant(page)


def open_table(page: Page, address: str, run_id: str, name: str) -> None:
    """A table among a run's artifacts, once its rows are drawn."""
    page.goto("about:blank")
    page.goto(find_run_page(address, run_id, f"/artifacts/tables/{name}"))
    page.get_by_role("cell").first.wait_for(timeout=60_000)
    _close_assistant(page)


def open_model(page: Page, address: str, name: str) -> list[str]:
    """The page of a registered model, once its versions are drawn; the text of each version's
    row.
    """
    page.goto("about:blank")
    page.goto(f"{address}/#/models/{name}?workflowType=machine_learning")
    page.get_by_text("Version ", exact=False).first.wait_for(timeout=60_000)
    _close_assistant(page)
    return [
        text
        for row in page.get_by_role("row").all()
        if (text := row.inner_text()).startswith("Version ")
    ]


def open_version(page: Page, address: str, name: str, version: int) -> None:
    """The page of a version, once its tags are drawn."""
    page.goto("about:blank")
    page.goto(f"{address}/#/models/{name}/versions/{version}?workflowType=machine_learning")
    page.get_by_text("eyevsai.dataset_digest").first.wait_for(timeout=60_000)


def give_alias(page: Page, address: str, name: str, version: int, alias: str) -> None:
    """Gives an alias to a version by the dialog of its page; returns once the page shows it."""
    open_version(page, address, name, version)
    page.get_by_title("Add aliases").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("combobox").fill(alias)
    dialog.get_by_role("combobox").press("Enter")
    dialog.get_by_role("button", name="Save aliases").click()
    page.get_by_role("status").filter(has_text=alias).wait_for()
    dialog.wait_for(state="hidden")


def _close_assistant(page: Page) -> None:
    """Closes the panel that MLflow opens beside a run, and waits until the page has settled."""
    for button in page.locator('[data-component-id="mlflow.assistant.chat_panel.close"]').all():
        button.click()
    page.wait_for_timeout(3000)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "eyevsai"]
        run = partial(subprocess.run, cwd=name, env=env, check=True, capture_output=True, text=True)
        trained = run([*command, "train"])
        run_id = next(
            line.split()[1].rstrip(";")
            for line in trained.stdout.splitlines()
            if line.startswith("run ")
        )
        run([*command, "evaluate", "--run", run_id, "--corruption-images", "0"])
        run(
            [*command, "tune", "--model", "shallow", "--variation", "rf_hog_lbp", "--n-trials", "4"]
        )
        run(
            [
                *command,
                "train",
                "--run-name",
                "narrow",
                "--epochs",
                "5",
                "--width",
                "8",
                "--tuned",
                "never",
            ]
        )
        run([*command, "promote", MODEL, "--version", "1", "--reason", "the first"])
        with mlflow_ui(Path(name)) as address, browser_page() as page:
            page.set_viewport_size({"width": 1440, "height": 1060})  # four charts
            open_curves(page, address, run_id)
            page.screenshot(path=IMAGES / "curves.png")
            page.set_viewport_size({"width": 1440, "height": 900})
            open_picture(page, address, run_id, "confusion_matrix.png")
            page.screenshot(path=IMAGES / "pictures.png")
            open_table(page, address, run_id, "test_classes.json")
            page.screenshot(path=IMAGES / "table.png")
            open_study(page, address, "tune digits-shallow-rf_hog_lbp")
            page.screenshot(
                path=IMAGES / "study.png", clip={"x": 0, "y": 0, "width": 1440, "height": 550}
            )
            # With the first metrics: MLflow scrolls their values without their names.
            page.set_viewport_size({"width": 1440, "height": 1094})
            compare_runs(page, address, (RUN, "narrow"))
            page.wait_for_timeout(500)
            page.screenshot(path=IMAGES / "comparison.png")
            page.set_viewport_size({"width": 1440, "height": 900})
            open_model(page, address, MODEL)
            # of the model, above its versions
            page.get_by_role("button", name="Tags", exact=True).click()
            page.screenshot(path=IMAGES / "versions.png")
    print(
        "wrote curves.png, pictures.png, table.png, study.png, comparison.png and versions.png "
        f"into {IMAGES}"
    )


if __name__ == "__main__":
    main()
