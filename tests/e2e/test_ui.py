"""`eyevsai ui`, once as a real process: what answers over HTTP, which page a browser is given, how
it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from eyevsai.store.tags import NOTE
from eyevsai.tracking.experiment_view import ABOUT, VIEW, describe_experiment, page_of_runs
from tests.conftest import ROOT, SMALL_FOREST, TRAINED, Eyevsai, create_database, find_port
from tests.forked_commands import Fork, fork_command

Ui = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def workplace(trained: Path) -> Path:
    """Return a folder whose store has a version of each family."""
    return trained


@pytest.fixture
def browser(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A browser that writes down which page it was given."""
    program, page = workplace / "browser.sh", workplace / "page"
    program.write_text(f'#!/bin/sh\necho "$1" > {page}.new && mv {page}.new {page}\n')
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(program))
    return page


@pytest.fixture
def ui(workplace: Path) -> Iterator[Ui]:
    """Starts `eyevsai ui ...` and returns its process once it has said where it is."""
    begun: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "eyevsai", "ui", *arguments],
            cwd=workplace,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        begun.append(process)
        assert process.stdout is not None
        said = process.stdout.readline() + process.stdout.readline()
        if "Press Ctrl-C to stop" not in said:
            pytest.fail(said + process.communicate()[1])
        return process

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def studies(workplace: Path) -> Iterator[Callable[..., Fork]]:
    """Start `eyevsai ui --optuna ...` in a fork and return it once it has said where it is."""
    import optuna_dashboard  # noqa: F401, which the fork would import

    begun: list[Fork] = []

    def start(*arguments: str) -> Fork:
        begun.append(fork_command(workplace, "ui", "--optuna", "--no-browser", *arguments))
        begun[-1].wait_until(lambda: "Press Ctrl-C to stop" in begun[-1].out.read_text())
        return begun[-1]

    yield start
    for fork in begun:
        fork.kill()


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:
        text = answer.read().decode()
    return json.loads(text) if text[:1] in "{[" else text


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    """Sends a signal; the exit code, and what was said on standard error. No process of it is
    left.
    """
    below = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    said = process.communicate(timeout=20)[1]
    assert not psutil.wait_procs(below, timeout=5)[1]
    return process.returncode, said


@pytest.mark.processes("the command and its server, a browser of the tests and Chromium")
@pytest.mark.timeout(200)
def test_mlflows_ui_is_opened_on_the_store_with_the_best_runs_first(
    ui: Ui,
    eyevsai: Eyevsai,
    browser: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = str(find_port())
    url = f"http://127.0.0.1:{port}"
    view = f"workflowType=machine_learning&viewStateShareKey={VIEW.rpartition('.')[2]}"
    page_url = f"{url}/#/experiments/1/runs?{view}"
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY")
    run_id = MlflowClient().get_model_version(TRAINED["deep_v1"], "1").run_id
    MlflowClient().log_metric(run_id, "test_accuracy", 0.9)  # as an evaluation does
    process = ui("--port", port)
    assert get(f"{url}/health") == "OK"
    (server, *_) = psutil.Process(process.pid).children()
    assert server.environ()["MLFLOW_DISABLE_TELEMETRY"] == "true"
    experiment = get(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=1")["experiment"]
    assert experiment["name"] == "stripes"  # that of the last training
    assert {NOTE: ABOUT}.items() <= {tag["key"]: tag["value"] for tag in experiment["tags"]}.items()
    assert browser.read_text().strip() == page_url

    taken = eyevsai("ui", "--port", port, code=2).stderr
    assert f"Port {port} is in use" in taken
    assert "--port " in taken.partition("such as")[2]
    browser.unlink()
    elsewhere = {"MLFLOW_TRACKING_URI": url}  # what was opened is a server, too
    assert eyevsai("ui", "--no-browser", **elsewhere).stdout == f"MLflow's UI: {page_url}\n"
    assert not browser.exists()
    eyevsai("ui", **elsewhere)
    assert browser.read_text().strip() == page_url
    assert "Omit --port" in eyevsai("ui", "--port", "5001", code=2, **elsewhere).stderr

    try:
        screenshots = request.getfixturevalue("screenshots")
        with screenshots.browser_page() as page:
            page.set_viewport_size({"width": 1280, "height": 800})
            columns = screenshots.open_best(page, url)
            shown = ["dataset", "model", "variation", "test_accuracy", "best_valid_accuracy"]
            assert [name for name in columns if name in shown] == shown
            for name in shown:  # without scrolling
                box = page.locator(".ag-header-cell", has_text=name).first.bounding_box()
                assert box is not None
                assert box["x"] + box["width"] <= 1280, name
            assert page.get_by_text("Image classifiers by eyevsai").count()
            for name in TRAINED.values():
                assert page.locator(".ag-row").get_by_text(name).count()
            (row,) = screenshots.open_model(page, url, TRAINED["deep_v1"])
            assert row.startswith("Version 1\n")
    finally:
        assert end(process, signal.SIGINT) == (130, "")


def test_the_studies_are_opened_in_optuna_dashboard(
    studies: Callable[..., Fork], eyevsai: Eyevsai, workplace: Path
) -> None:
    assert "There are no studies in" in eyevsai("ui", "--optuna", code=2).stderr

    def study(name: str, *values: float) -> None:
        (workplace / "studies").mkdir(exist_ok=True)
        storage = JournalStorage(JournalFileBackend(str(workplace / "studies" / f"{name}.journal")))
        found = optuna.create_study(
            study_name=name, storage=storage, direction="maximize", load_if_exists=True
        )
        for value in values:
            found.tell(found.ask(), value)

    study("beans-shallow-rf", 0.25, 0.5)
    study("beans-deep_v1-standard", 0.75)
    port = str(find_port())
    fork = studies("--port", port)
    url = f"http://127.0.0.1:{port}/api/studies"

    def shown() -> dict[str, int]:
        return {each["study_name"]: each["study_id"] for each in get(url)["study_summaries"]}

    def values(name: str) -> list[float]:
        return [trial["values"][0] for trial in get(f"{url}/{shown()[name]}?after=0")["trials"]]

    assert set(shown()) == {"beans-shallow-rf", "beans-deep_v1-standard"}
    assert values("beans-shallow-rf") == [0.25, 0.5]
    assert values("beans-deep_v1-standard") == [0.75]
    study("peas-shallow-rf", 0.125)  # begun meanwhile
    assert values("peas-shallow-rf") == [0.125]
    note = {"body": "looks good", "version": 1}
    asked = urllib.request.Request(
        f"{url}/{shown()['peas-shallow-rf']}/note",
        json.dumps(note).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(asked, timeout=20).close()
    journals = {
        path.stem: "looks good" in path.read_text()
        for path in (workplace / "studies").glob("*.journal")
    }
    assert journals == {
        "beans-shallow-rf": False,
        "beans-deep_v1-standard": False,
        "peas-shallow-rf": True,
    }
    assert fork.end(signal.SIGTERM) == 143
    assert not fork.err.read_text()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, workplace: Path) -> str:
    """The URL of a database in which there are no studies."""
    if request.param == "sqlite":
        return f"sqlite:///{workplace / 'team.db'}"
    return create_database(request.getfixturevalue("postgres"), f"studies_{time.monotonic_ns()}")


def test_studies_in_a_database_are_opened_too(
    studies: Callable[..., Fork], eyevsai: Eyevsai, stripes: Path, storage: str
) -> None:
    eyevsai(
        "tune",
        *SMALL_FOREST,
        "--data",
        str(stripes),
        "--n-trials",
        "2",
        "--threads",
        "1",
        "--storage",
        storage,
    )
    port = str(find_port())
    fork = studies("--port", port, "--storage", storage)
    (study,) = get(f"http://127.0.0.1:{port}/api/studies")["study_summaries"]
    assert study["study_name"] == "stripes-shallow-rf_hog_lbp"
    trials = get(f"http://127.0.0.1:{port}/api/studies/{study['study_id']}?after=0")["trials"]
    assert [trial["state"] for trial in trials] == ["Complete", "Complete"]
    assert fork.end(signal.SIGINT) == 130
    assert not fork.err.read_text()


def test_what_ui_cannot_do_is_said(eyevsai: Eyevsai, workplace: Path) -> None:
    assert (
        "--storage sqlite:///a.db requires --optuna"
        in eyevsai("ui", "--storage", "sqlite:///a.db", code=2).stderr
    )
    assert (
        "no database" in eyevsai("ui", "--optuna", "--storage", "sqlite:///none.db", code=2).stderr
    )
    assert not (workplace / "none.db").exists()
    assert (
        "is unreachable" in eyevsai("ui", code=2, MLFLOW_TRACKING_URI="http://127.0.0.1:1").stderr
    )
    assert "Cannot listen at 192.0.2.1" in eyevsai("ui", "--host", "192.0.2.1", code=2).stderr


def test_what_a_person_says_of_an_experiment_stays(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient()
    uri = os.environ["MLFLOW_TRACKING_URI"]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    page = page_of_runs(uri)
    mine = client.get_experiment_by_name("mine")
    assert f"/experiments/{mine.experiment_id}/" in page
    assert mine.tags[NOTE] == ABOUT
    for own in ("Beans of last year.", ""):
        client.set_experiment_tag(mine.experiment_id, NOTE, own)
        describe_experiment(client, mine.experiment_id)
        assert client.get_experiment(mine.experiment_id).tags[NOTE] == own
