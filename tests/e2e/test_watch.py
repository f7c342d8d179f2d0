"""`monitor live` and `watch`, as a person and cron use them, on the log of a real version."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from eyevsai.registry.retraining_runs import EXPERIMENT, find_retraining_run
from eyevsai.retraining.outbox import PAUSES_S
from eyevsai.retraining.record import Action, Retraining, State
from eyevsai.rollout.policy import RolloutPolicy
from eyevsai.rollout.state import Event, Kind, RolloutState, transition
from eyevsai.serving.rollout_log import StoredRolloutLog
from eyevsai.workflows.monitor.webhook import sign
from eyevsai.workflows.watch import watch as watch_module
from tests.conftest import SMALL, Eyevsai, write_images
from tests.e2e.stripes import CLASSES, NAME, draw
from tests.html_pages import check_self_contained
from tests.receiver import SECRET, receiving
from tests.served import Served

# one worker: a test moves the images of the shared store
pytestmark = pytest.mark.xdist_group("watch")
POLICY = """
min_labels = 40
new_labels = 1000
cooldown_hours = 0
recent_tolerance = 0.05
promotion_policy = "promotion.toml"

[train]
epochs = 8
"""


@pytest.fixture
def workplace(served_project: Path) -> Path:
    (served_project / "retraining.toml").write_text(POLICY)
    (served_project / "promotion.toml").write_text("tolerance = 0.02\n")
    return served_project


def state_of(name: str = NAME) -> Retraining:
    run = find_retraining_run(MlflowClient(), name)
    assert run is not None
    return Retraining.from_json(run.load())


def read(output: Any) -> dict[str, Any]:
    return json.loads(output.stdout)


def test_same_traffic_raises_no_alert(eyevsai: Eyevsai, served: Served, workplace: Path) -> None:
    served.answer(draw(240, 500)[0])
    output = eyevsai("monitor", "live", NAME)
    assert "no alert" in output.stdout
    assert "240 answers" in output.stdout
    page = check_self_contained((workplace / "live.html").read_text())
    assert "No alert" in page.text
    for caption in ("Traffic", "Model time, 99th percentile", "Difference from the reference"):
        assert caption in page.text
    assert MlflowClient().get_experiment_by_name(EXPERIMENT) is None


def test_alerts_are_explained_and_recorded_once(
    eyevsai: Eyevsai, served: Served, workplace: Path
) -> None:
    served.answer(draw(240, 500)[0])
    images, labels = draw(400, 900, is_shifted=True)
    ids = served.answer(images, failed=20)
    served.label(ids[:200], labels[:200])
    metrics = workplace / "eyevsai.prom"
    arguments = ("monitor", "live", NAME, "--risk-labels", "all", "--json")
    report = read(eyevsai(*arguments, "--metrics-file", str(metrics), code=1))
    assert {each["name"] for each in report["alerts"]} >= {
        "DriftDetected",
        "RiskExceeded",
        "ErrorsHigh",
    }
    assert "darker" in json.dumps(report["windows"][-1]["comparison"]["explanation"])
    assert report["risk"]["labels"] == 200
    assert report["risk"]["log_evidence"] > np.log(100)
    assert f'eyevsai_alert{{model="{NAME}",version="1",alert="RiskExceeded"}} 1.0' in (
        metrics.read_text()
    )
    assert read(eyevsai(*arguments, code=1))["run_id"] is None  # the same alerts
    log = read(eyevsai("registry", "log", NAME, "--json"))
    (entry,) = [each for each in log if each["action"] == "alert"]
    assert "RiskExceeded" in entry["reason"]
    content = (workplace / "live.html").read_text()
    assert "RiskExceeded" in check_self_contained(content).text


def test_risk_uses_only_answers_that_were_drawn(eyevsai: Eyevsai, served: Served) -> None:
    images, labels = draw(120, 900, is_shifted=True)
    served.label(served.answer(images), labels)  # as users send them: all of wrong answers
    report = read(eyevsai("monitor", "live", NAME, "--json", code=None))
    assert report["risk"]["labels"] == 0
    assert "feedback suggest" in " ".join(report["notes"])


@pytest.mark.processes("more than 64 images are decoded in worker processes")
@pytest.mark.usefixtures("steps_in_process")
def test_closed_loop(eyevsai: Eyevsai, served: Served, workplace: Path) -> None:
    """Drift, request, labels, retraining, gate, candidate, and a person who promotes it."""
    served.answer(draw(240, 500)[0])
    assert read(eyevsai("watch", NAME, "--json"))["state"] == "idle"
    shifted, labels = draw(300, 900, is_shifted=True)
    ids = served.answer(shifted)
    result = read(eyevsai("watch", NAME, "--json"))
    assert result["changes"] == ["idle -> triggered", "triggered -> needs_labels"]
    assert "DriftDetected" in result["alerts"]
    (request,) = (workplace.parent / "state" / "retraining" / NAME).glob("request-*")
    assert {each.name for each in request.iterdir()} >= {
        "counts.json",
        "label_studio.json",
        "labels.csv",
    }
    # half of the labels come, late
    served.label(ids[:150], labels[:150])
    result = read(eyevsai("watch", NAME, "--json"))
    assert result["state"] == "waiting", result
    assert result["version"] == 2
    client = MlflowClient()
    assert client.get_registered_model(NAME).aliases == {"production": 1, "candidate": 2}
    eyevsai("promote", f"{NAME}/2", "--reason", "checked by a person")
    result = read(eyevsai("watch", NAME, "--json"))
    assert result["changes"][0] == "waiting -> cooling"
    assert "promoted" in state_of().outcome or state_of().state is State.IDLE
    rest = served.answer(shifted[150:], version=2)
    predicted = {each.id: each.label for each in read_answers(served, rest)}
    accuracy = np.mean(
        [predicted[key] == label for key, label in zip(rest, labels[150:], strict=True)]
    )
    assert accuracy > 0.9
    log = read(eyevsai("registry", "log", NAME, "--json"))
    changes = [each["reason"] for each in log if each["action"] == "retraining"]
    assert any("training -> evaluating" in each for each in changes)


def read_answers(served: Served, ids: list[str]) -> list[Any]:
    from sqlalchemy import select

    from eyevsai.inference_log.schema import answers

    with served.store.reading() as connection:
        return connection.execute(
            select(answers.c.id, answers.c.label).where(answers.c.id.in_(ids))
        ).all()


@pytest.mark.processes("more than 64 images are decoded in worker processes")
@pytest.mark.usefixtures("steps_in_process")
@pytest.mark.parametrize("action", [Action.FREEZE, Action.TRAIN, Action.EVALUATE, Action.CHECK])
def test_watch_continues_after_a_kill_in_each_state(
    action: Action, eyevsai: Eyevsai, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after an action, before its event is stored: the action is repeated."""
    shifted, labels = draw(150, 900, is_shifted=True)
    served.label(served.answer(shifted), labels)
    perform = watch_module._Watcher._perform

    class Killed(BaseException):
        """End of the process."""

    def perform_and_die(self: Any, each: Action) -> Any:
        event = perform(self, each)
        if each is action:
            raise Killed
        return event

    with monkeypatch.context() as patch:
        patch.setattr(watch_module._Watcher, "_perform", perform_and_die)
        with pytest.raises(Killed):
            eyevsai("watch", NAME, "--start", "--reason", "new camera")
    result = read(eyevsai("watch", NAME, "--json"))
    assert result["state"] == "waiting", result
    record = state_of()
    assert record.version == 2
    assert len(record.keys) == 1
    assert len(MlflowClient().search_model_versions(f"name = '{NAME}'")) == 2


@pytest.mark.processes("more than 64 images are decoded in worker processes")
@pytest.mark.usefixtures("steps_in_process")
def test_candidate_waits_for_another_rollout_and_its_own_is_not_repeated(
    eyevsai: Eyevsai, served: Served, workplace: Path
) -> None:
    (workplace / "retraining.toml").write_text('promote = "rollout"\n' + POLICY)
    log, topic = StoredRolloutLog(served.store), f"rollout/{NAME}"
    other = RolloutState(NAME, "a" * 32, 9, 1, "ab", RolloutPolicy(), 0.0, 0.0)
    for state in (other, transition(other, Event(Kind.ABORT), 1.0)):
        append(log, state)
        if not state.is_over:
            shifted, labels = draw(150, 900, is_shifted=True)
            served.label(served.answer(shifted), labels)
            result = read(eyevsai("watch", NAME, "--start", "--reason", "new camera", "--json"))
            assert result["state"] == "gated", result
            assert MlflowClient().get_registered_model(NAME).aliases == {"production": 1}
    result = read(eyevsai("watch", NAME, "--json"))
    assert result["state"] == "rollout", result
    eyevsai("rollout", "abort", NAME, "--reason", "too early")
    # as if the watcher had been killed before it stored that the rollout was started
    run = find_retraining_run(MlflowClient(), NAME)
    assert run is not None
    record = replace(state_of(), state=State.CANDIDATE, since=state_of().since - 60)
    run.save(record.to_json(), "candidate", "")
    read(eyevsai("watch", NAME, "--json"))
    assert state_of().outcome == "aborted: too early"
    assert len(log.read_decisions(topic)) == 4


def append(log: StoredRolloutLog, state: RolloutState) -> None:
    """Store a state of a rollout, as a person's command does."""
    topic = f"rollout/{NAME}"
    lease = log.acquire_lease(topic, "a person", 30.0)
    content = {"state": state.to_json(), "evidence": None}
    assert log.append_decision(lease, topic, state.seq, "any", content)
    log.release_lease(lease)


@pytest.mark.processes("more than 64 images are decoded in worker processes")
@pytest.mark.usefixtures("steps_in_process")
def test_candidate_is_compared_with_a_version_that_was_promoted_meanwhile(
    eyevsai: Eyevsai, served: Served, served_store: Path
) -> None:
    """It waits for the end of a rollout; then another version is in Production."""
    log = StoredRolloutLog(served.store)
    other = RolloutState(NAME, "a" * 32, 9, 1, "ab", RolloutPolicy(), 0.0, 0.0)
    append(log, other)
    shifted, labels = draw(150, 900, is_shifted=True)
    served.label(served.answer(shifted), labels)
    assert read(eyevsai("watch", NAME, "--start", "--json"))["state"] == "gated"
    append(log, transition(other, Event(Kind.ABORT), 1.0))
    images = str(served_store / "data" / "stripes")
    flags = (*SMALL, "--epochs", "8", "--test-fraction", "0.4")
    eyevsai("train", "--model", "deep_v1", "--data", images, *flags)
    eyevsai("evaluate", f"{NAME}/3", "--corruption-images", "0")
    eyevsai("promote", f"{NAME}/3")
    result = read(eyevsai("watch", NAME, "--json"))
    assert result["state"] == "waiting", result
    metrics = MlflowClient().get_run(result["run_id"]).data.metrics
    assert metrics["recent_accuracy_before"] < metrics["recent_accuracy"]


@pytest.mark.processes("more than 64 images are decoded in worker processes")
@pytest.mark.usefixtures("steps_in_process")
def test_worse_model_is_refused(eyevsai: Eyevsai, served: Served, workplace: Path) -> None:
    """Labels of one flooding source are wrong: the gate refuses what was trained on them."""
    (workplace / "retraining.toml").write_text(POLICY + "label_smoothing = 0.0\n")
    images, labels = draw(240, 700)
    wrong = [CLASSES[(CLASSES.index(label) + 1) % 3] for label in labels]
    served.label(served.answer(images), wrong, source="rule:broken")
    before = MlflowClient().get_registered_model(NAME).aliases
    result = read(eyevsai("watch", NAME, "--start", "--json"))
    assert "evaluating -> gated" in result["changes"]
    assert "gated -> refused" in result["changes"], result
    assert "worse" in result["outcome"]
    assert MlflowClient().get_registered_model(NAME).aliases == before


@pytest.mark.processes("more than 64 images are decoded in worker processes")
@pytest.mark.usefixtures("steps_in_process")
def test_missing_data_folder_is_a_failure_that_is_retried_later(
    eyevsai: Eyevsai, served: Served, workplace: Path, served_store: Path
) -> None:
    shifted, labels = draw(150, 900, is_shifted=True)
    served.label(served.answer(shifted), labels)
    data = served_store / "data" / "stripes"
    moved = data.with_name("away")
    shutil.move(data, moved)
    try:
        result = read(eyevsai("watch", NAME, "--start", "--json", code=1))
        assert result["state"] == "failed"
        assert "stripes" in result["text"]
        result = read(eyevsai("watch", NAME, "--json", code=1))
        assert result["changes"] == []  # it waits for an hour
    finally:
        shutil.move(moved, data)
    result = read(eyevsai("watch", NAME, "--start", "--json"))
    assert result["state"] == "waiting", result


@pytest.mark.usefixtures("steps_in_process")
def test_three_failures_stop_the_retraining(
    eyevsai: Eyevsai, served: Served, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of frozen data cannot be written; the pauses are over at once."""
    monkeypatch.setattr("eyevsai.retraining.state.BACKOFF_S", (0.0, 0.0))
    (workplace / "file").touch()
    arguments = ("watch", NAME, "--json", "--retraining-dir", str(workplace / "file"))
    shifted, labels = draw(60, 900, is_shifted=True)
    served.label(served.answer(shifted), labels)
    result = read(eyevsai(*arguments, "--start", code=1))
    assert result["state"] == "stopped"
    assert result["changes"].count("failed -> triggered") == 2
    assert "3 attempts failed" in result["text"]
    assert read(eyevsai(*arguments, code=1))["changes"] == []
    log = read(eyevsai("registry", "log", NAME, "--json"))
    assert sum("-> failed" in each["reason"] for each in log) == 2


@pytest.mark.usefixtures("steps_in_process")
def test_labels_that_do_not_count(eyevsai: Eyevsai, served: Served) -> None:
    """Repeated, contradictory and unknown labels, and those of unknown ids, start nothing."""
    shifted, labels = draw(120, 900, is_shifted=True)
    ids = served.answer(shifted)
    for _ in range(10):
        served.label(ids[:30], labels[:30])
    served.label(ids[30:60], labels[30:60], source="person:anna")
    served.label(ids[30:60], ["wide" if x != "wide" else "down" for x in labels[30:60]],
                 source="person:berta")  # fmt: skip
    served.label(ids[60:90], ["giraffe"] * 30)
    served.label(["0" * 48] * 30, labels[:30])
    result = read(eyevsai("watch", NAME, "--json"))
    assert result["state"] == "needs_labels"
    assert "30 are new" in result["text"]


@pytest.mark.processes("more than 64 images are decoded in worker processes")
def test_labels_answer_a_request_whose_time_is_over(
    eyevsai: Eyevsai, served: Served, workplace: Path
) -> None:
    """They arrived in time, but no call was made between them and the end of the request."""
    (workplace / "retraining.toml").write_text("runs_per_week = 0\n" + POLICY)
    images, labels = draw(60, 500)
    ids = served.answer(images)
    assert read(eyevsai("watch", NAME, "--start", "--json"))["state"] == "needs_labels"
    served.label(ids[:45], labels[:45])
    run = find_retraining_run(MlflowClient(), NAME)
    assert run is not None
    record = replace(state_of(), since=state_of().since - 15 * 86400)
    run.save(record.to_json(), str(record.state), "")
    result = read(eyevsai("watch", NAME, "--json"))
    assert result["changes"] == ["needs_labels -> frozen"], result
    assert "runs_per_week" in result["text"]


def test_only_one_of_eight_watchers_works(
    eyevsai: Eyevsai, served: Served, workplace: Path
) -> None:
    from eyevsai.inference_log.store import LogStore
    from eyevsai.workflows.watch.lease import holding

    served.answer(draw(60, 500)[0])
    uri = f"sqlite:///{workplace / 'mlflow.db'}"
    all_tried = threading.Barrier(8)

    def acquire(_: int) -> bool:
        with holding(LogStore.open(served.url), uri, NAME) as lease:
            all_tried.wait(60.0)
            return lease is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(acquire, range(8))) == 1
    with holding(LogStore.open(served.url), uri, NAME) as lease:
        assert lease is not None
        result = read(eyevsai("watch", NAME, "--json"))
    assert result["state"] == "busy"
    assert MlflowClient().get_experiment_by_name(EXPERIMENT) is None


def test_alerts_arrive_when_the_receiver_is_back(
    eyevsai: Eyevsai, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message that cannot be sent is sent once by a later call, after a pause."""
    served.answer(draw(300, 900, is_shifted=True)[0])
    eyevsai("monitor", "live", NAME, code=1)  # a person looks: `watch` has to send it nevertheless
    with socket.socket() as nobody:  # holds the port, at which connections are refused
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        monkeypatch.setenv("EYEVSAI_WEBHOOK", f"http://127.0.0.1:{port}/hook")
        monkeypatch.setenv("EYEVSAI_WEBHOOK_SECRET", SECRET)
        began_at = time.time()
        output = eyevsai("watch", NAME, "--json")
    assert (read(output)["state"], read(output)["unsent"]) == ("needs_labels", 1)
    assert "Later calls try again; waiting: 1." in " ".join(output.stderr.split())
    run = find_retraining_run(MlflowClient(), NAME)
    assert run is not None
    assert run.load_alerts()["retry_at"] >= began_at + PAUSES_S[0]

    def end_pause_in(seconds: float) -> None:
        run.save_alerts(run.load_alerts() | {"retry_at": time.time() + seconds})

    with receiving(port) as received:
        end_pause_in(3600.0)  # calls can take longer than the first pause
        assert read(eyevsai("watch", NAME, "--json"))["unsent"] == 1
        assert received.requests == []
        end_pause_in(0.0)
        received.code = 500
        assert read(eyevsai("watch", NAME, "--json"))["unsent"] == 1
        end_pause_in(0.0)
        received.code = 204
        for _ in range(2):
            assert read(eyevsai("watch", NAME, "--json"))["unsent"] == 0
    first, second = (json.loads(body) for _, _, body in received.requests)
    assert first == second  # the receiver knows by the id that it is the same message
    assert [each["name"] for each in second["alerts"]] == alerts_of(eyevsai)
    _, signature, body = received.requests[-1]
    timestamp = int(signature.removeprefix("t=").partition(",")[0])
    assert signature == sign(SECRET, body, timestamp)
    assert abs(time.time() - timestamp) < 300  # signed when it was sent


def alerts_of(eyevsai: Eyevsai) -> list[str]:
    report = read(eyevsai("monitor", "live", NAME, "--json", code=1))
    return [each["name"] for each in report["alerts"]]


@pytest.mark.slow
@pytest.mark.processes("eight watchers at once, each a process")
def test_eight_processes_train_once(
    eyevsai_process: Eyevsai, served: Served, workplace: Path
) -> None:
    shifted, labels = draw(150, 900, is_shifted=True)
    served.label(served.answer(shifted), labels)
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(eyevsai_process, "watch", NAME, "--start", "--json") for _ in range(8)
        ]
        states = [read(each.result())["state"] for each in futures]
    assert "waiting" in states
    assert set(states) <= {"waiting", "busy"}
    assert len(MlflowClient().search_model_versions(f"name = '{NAME}'")) == 2
    assert len(state_of().trainings) == 1


def test_calls_that_change_nothing_leave_one_run(
    entry_point: Eyevsai, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call deletes the run of the one before, which ended some seconds ago."""
    monkeypatch.setattr("eyevsai.tracking.stale_runs.DELETE_STUBS_AFTER_S", -1.0)
    served.answer(draw(120, 500)[0])
    for _ in range(3):
        entry_point("watch", "-P", f"name={NAME}")
    runs = MlflowClient().search_runs(["0"])
    assert len([run for run in runs if run.data.tags.get("eyevsai.job") == "watch"]) == 1
    entry_point("monitor", "-P", f"name={NAME}")


def test_entry_point_of_drift(entry_point: Eyevsai, workplace: Path, tmp_path: Path) -> None:
    same = write_images(tmp_path / "same", dict.fromkeys(CLASSES, 20), start=500)
    entry_point("monitor", "-P", f"model={NAME}/1", "-P", f"data={same}")
    assert (workplace / "drift.html").is_file()
    done = entry_point("monitor", "-P", f"model={NAME}/1", code=1)
    assert "Set name=NAME" in done.stderr


def test_unusable_input(eyevsai: Eyevsai, served: Served, workplace: Path) -> None:
    served.answer(draw(60, 500)[0])

    def fails(*arguments: str, text: str) -> None:
        assert text in " ".join(eyevsai(*arguments, code=2).stderr.split())

    fails("watch", text="requires a registered model")
    fails("watch", "no-such-model", text="There is no registered model")
    fails("watch", NAME, "--once", "--every", "10m", text="contradict")
    fails("watch", NAME, "--every", "soon", text="is not a duration")
    fails("watch", NAME, "--reason", "x", text="requires --start")
    fails("watch", NAME, "--log", "off", text="--log off")
    (workplace / "retraining.toml").write_text("min_label = 3\n")
    fails("watch", NAME, text="Did you mean 'min_labels'?")
    (workplace / "retraining.toml").write_text('[train]\ndata = "x"\n')
    fails("watch", NAME, text="cannot be set")
    fails("monitor", "live", NAME, "--webhook", "http://127.0.0.1/x", text="requires a secret")
    fails("monitor", "live", "no-such-model", text="There is no registered model")
