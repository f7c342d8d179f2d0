"""`eyevsai rollout`: decisions, their writes, and servers that obey them."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from eyevsai.core.errors import UserError
from eyevsai.inference_log.coordination import Coordination
from eyevsai.registry.audit_log import EXPERIMENT, previous_version, read_log
from eyevsai.registry.rollout_tag import TAG, parse_tag
from eyevsai.registry.rollouts import APPLIED, AUDIT_SEQ
from eyevsai.rollout import controller as controller_module
from eyevsai.rollout.state import Event, Kind, Phase, RolloutState
from eyevsai.serving.model_dir import REFERENCE_FOLDER, fetch_model_dir
from tests.conftest import (
    SMALL,
    Eyevsai,
    copy_trained,
    create_database,
    extend_trained,
    find_port,
    once,
    write_images,
)
from tests.e2e.rollout_stage import (
    ANY_VERSION,
    DATASET,
    NAME,
    POLICY,
    POLL_S,
    Clients,
    Served,
    Traffic,
    first_state,
    read_images,
    wait_until,
)
from tests.forks import join_forks, start_fork

GOOD, BAD = 2, 3


@pytest.fixture(scope="session")
def rollout_store(
    tmp_path_factory: pytest.TempPathFactory, trained_store: Path, cache_dir: Path
) -> Path:
    """Return a folder with a store of two good versions and a bad one, all evaluated; version 1 is
    in Production.
    """

    def build(folder: Path) -> None:
        run = extend_trained(trained_store, cache_dir, folder)
        images = write_images(folder / "data" / DATASET, {"across": 80, "down": 80, "wide": 80})
        good = ("--epochs", "6")
        for flags in (good, (*good, "--mixup", "0"), ("--epochs", "1", "--lr", "1e-5")):
            run("train", "--data", str(images), *SMALL, *flags)
        for number in (1, GOOD, BAD):
            run("evaluate", "--model-uri", f"models:/{NAME}/{number}", "--corruption-images", "0")
        (folder / "promotion.toml").write_text(ANY_VERSION, encoding="utf-8")
        (folder / "rollout.toml").write_text(POLICY, encoding="utf-8")
        run("promote", NAME, "--version", "1")

    return once(tmp_path_factory, "rollout", build)


@pytest.fixture
def workplace(rollout_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = copy_trained(rollout_store, tmp_path / "project", monkeypatch)
    monkeypatch.setenv("EYEVSAI_LOG", f"sqlite:///{folder / 'log.db'}")
    return folder


@pytest.fixture
def traffic(workplace: Path) -> Traffic:
    return Traffic(workplace)


def aliases() -> dict[str, int]:
    entity = MlflowClient().get_registered_model(NAME)
    return {name: int(number) for name, number in entity.aliases.items()}


def tag() -> Any:
    return parse_tag(MlflowClient().get_registered_model(NAME).tags[TAG])


def audit_entries(run_id: str) -> list[tuple[str, str]]:
    """Return number and state of each finished audit entry about the decisions of a rollout."""
    client = MlflowClient()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], f"tags.rollout_run = '{run_id}'")
    assert {run.info.status for run in runs} == {"FINISHED"}
    return sorted((run.data.tags[AUDIT_SEQ], run.data.tags["rollout_state"]) for run in runs)


def end_state(traffic: Traffic, folder: Path) -> dict[str, Any]:
    """Return everything that a rollout has left, except what differs between two of them."""
    client, state = MlflowClient(), traffic.controller(folder).read()
    assert state is not None
    run = client.get_run(state.run_id)
    decisions = traffic.log.read_decisions(f"rollout/{NAME}")
    values = json.loads(client.get_registered_model(NAME).tags[TAG])
    stages = {each.version: each.current_stage for each in client.search_model_versions("")}
    entries = read_log(client, NAME)
    numbers = {int(number) for number in stages}
    return {
        "aliases": aliases(),
        "stages": stages,
        "tag": {name: values[name] for name in ("mode", "share", "version", "seq")},
        "decisions": [(each.seq, each.kind) for each in decisions],
        "audit": audit_entries(state.run_id),
        "run": (run.info.status, run.data.tags[APPLIED], run.data.tags["rollout.state"]),
        "params": run.data.params["plan"],
        "rollback to": previous_version(entries, "production", aliases()["production"], numbers),
    }


def test_good_version_is_promoted_step_by_step(workplace: Path, traffic: Traffic) -> None:
    controller = traffic.controller(workplace)
    controller.start(first_state())
    assert (aliases(), tag().mode) == ({"production": 1, "candidate": 2}, "prepared")
    assert controller.step().decided == ()  # no server has reported
    state = traffic.run(workplace)
    assert state.phase is Phase.PROMOTED
    assert aliases() == {"production": 2}
    assert tag().mode == "off"
    kinds = [each.kind for each in traffic.log.read_decisions(f"rollout/{NAME}")]
    assert kinds == ["start", "advance", "advance", "advance", "promoted"]
    assert len(audit_entries(state.run_id)) == 5
    run = MlflowClient().get_run(state.run_id)
    assert (run.info.status, run.data.tags["eyevsai.job"]) == ("FINISHED", "rollout")
    assert "log_evidence/failed" in run.data.metrics
    assert end_state(traffic, workplace)["rollback to"] == 1


def test_failing_version_is_rolled_back(workplace: Path, traffic: Traffic) -> None:
    traffic.controller(workplace).start(first_state())
    state = traffic.run(workplace, failing=0.5)
    assert state.phase is Phase.ROLLED_BACK
    assert "fails more often" in state.reason
    assert aliases() == {"production": 1}
    assert (tag().mode, tag().share) == ("off", 0)
    assert MlflowClient().get_run(state.run_id).info.status == "FAILED"


def test_second_rollout_is_refused(workplace: Path, traffic: Traffic) -> None:
    controller = traffic.controller(workplace)
    controller.start(first_state())
    with pytest.raises(UserError, match="is active: prepared"):
        traffic.controller(workplace).start(first_state(3))
    controller.submit(Event(Kind.ABORT, "changed my mind"))
    assert traffic.controller(workplace).start(first_state(3)).seq == 3


@pytest.mark.parametrize(("alias", "number"), [("production", 3), ("candidate", 3)])
def test_alias_moved_by_hand_aborts_and_is_recorded(
    alias: str, number: int, workplace: Path, traffic: Traffic
) -> None:
    controller = traffic.controller(workplace)
    traffic.report(controller.start(first_state()))
    state = controller.step().state
    assert state is not None
    assert state.phase is Phase.SPLIT
    MlflowClient().set_registered_model_alias(NAME, alias, str(number))
    state = controller.step().state
    assert state is not None
    assert (state.phase, tag().mode) == (Phase.ABORTED, "off")
    assert f"the alias {alias} was moved to version {number} by hand" in state.reason
    assert aliases()["production"] == (number if alias == "production" else 1)
    assert aliases().get("candidate") == (number if alias == "candidate" else None)
    assert ("3", "aborted") in audit_entries(state.run_id)
    assert MlflowClient().get_run(state.run_id).info.status == "KILLED"


def test_rollout_whose_run_was_deleted_can_be_ended(workplace: Path, traffic: Traffic) -> None:
    controller = traffic.controller(workplace)
    traffic.report(controller.start(first_state()))
    state = controller.step().state
    assert state is not None
    assert state.phase is Phase.SPLIT
    MlflowClient().delete_run(state.run_id)
    traffic.answer(state, count=300, failing=0.9)
    state = controller.step().state
    assert state is not None
    assert (state.phase, tag().mode) == (Phase.ROLLED_BACK, "off")
    assert aliases() == {"production": 1}
    assert controller.start(first_state(3)).candidate == 3


def test_new_log_does_not_repeat_numbers(workplace: Path, traffic: Traffic) -> None:
    controller = traffic.controller(workplace)
    controller.start(first_state())
    controller.submit(Event(Kind.ABORT))
    assert tag().seq == 2
    (workplace / "other").mkdir()
    other = Traffic(workplace / "other")
    assert other.controller(workplace).start(first_state()).seq == 3


def test_late_write_of_an_older_decision_is_replaced(workplace: Path, traffic: Traffic) -> None:
    controller = traffic.controller(workplace)
    first = controller.start(first_state())
    traffic.report(first)
    state = controller.step().state
    assert state is not None
    client = MlflowClient()
    client.set_registered_model_tag(NAME, TAG, first.tag().to_json())
    controller.step()
    assert tag() == state.tag()
    client.set_registered_model_tag(NAME, TAG, "{}")
    controller.step()
    assert tag() == state.tag()


def test_refused_promotion_is_held_and_can_be_resumed(workplace: Path, traffic: Traffic) -> None:
    policy = workplace / "strict.toml"
    policy.write_text("max_size_mb = 0.0001\n", encoding="utf-8")
    state = first_state()
    controller = traffic.controller(workplace)
    traffic.report(
        controller.start(RolloutState(**vars(state) | {"promotion_policy": str(policy)}))
    )
    for _ in range(3):
        current = controller.step().state
        assert current is not None
        traffic.report(current)
        traffic.answer(current)
    current = controller.step().state
    assert current is not None
    assert current.name == "promoting, held"
    assert "The size of" in current.reason
    assert aliases()["production"] == 1
    policy.write_text(ANY_VERSION, encoding="utf-8")
    controller.submit(Event(Kind.RESUME))
    assert traffic.run(workplace).phase is Phase.PROMOTED


@pytest.fixture
def copy_workplace(
    rollout_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Return a function that copies the store into a folder with a name."""
    return lambda name: copy_trained(rollout_store, tmp_path / name, monkeypatch)


WRITES = (
    "create_run",
    "delete_registered_model_alias",
    "log_batch",
    "log_dict",
    "set_model_version_tag",
    "set_registered_model_alias",
    "set_registered_model_tag",
    "set_tag",
    "set_terminated",
    "transition_model_version_stage",
    "update_model_version",
)


def kill_before_write(number: int) -> None:
    """Let SIGKILL end this process before its write with a number, the first one being 0."""
    numbers = itertools.count()

    def wrap(owner: type, name: str) -> None:
        original = getattr(owner, name)

        def method(*arguments: Any, **options: Any) -> Any:
            if next(numbers) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, method)

    for name in WRITES:
        wrap(MlflowClient, name)
    wrap(Coordination, "append_decision")


def roll_out(folder: Path, failing: float, killed_at: int | None) -> None:
    """Start a rollout unless it is active, and look at it until it is over."""
    if killed_at is not None:
        kill_before_write(killed_at)
    traffic = Traffic(folder)
    if traffic.controller(folder).read() is None:
        traffic.controller(folder).start(first_state(plan="50"))
    traffic.run(folder, failing=failing)


def run_controller(folder: Path, failing: float, killed_at: int | None) -> int | None:
    """Roll out in a process of its own, and return its exit code."""
    (code,) = join_forks([start_fork(roll_out, folder, failing, killed_at)])
    return code


@pytest.mark.requirement(27)
@pytest.mark.processes("controllers that are killed")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("failing", [0.0, 0.6], ids=["promoted", "rolled_back"])
@pytest.mark.parametrize(
    "points",
    [
        (0, 8),
        *(pytest.param(each, marks=pytest.mark.slow) for each in ((4, 8), (1, 4), (2, 4), (3, 4))),
    ],
    ids="{0[0]}-{0[1]}".format,
)
def test_controller_killed_between_two_writes_ends_in_the_same_state(
    points: tuple[int, int],
    failing: float,
    copy_workplace: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """Each write is one point; the parts together have all of them.

    Points are the first one, and the distance between two.
    """
    first, every = points
    # a killed controller does not give its lease back: it expires
    monkeypatch.setattr(controller_module, "LEASE_S", 0.05)
    monkeypatch.setattr(controller_module, "PROMOTION_S", 0.05)
    whole = copy_workplace("whole")
    assert run_controller(whole, failing, None) == 0
    expected, survived = end_state(Traffic(whole), whole), 0
    for point in itertools.count(first, every):
        folder = copy_workplace(f"at-{point}")
        code = run_controller(folder, failing, point)
        if code == 0:  # it has fewer writes
            break
        assert code == -signal.SIGKILL
        time.sleep(0.1)  # the lease of the dead controller expires
        assert run_controller(folder, failing, None) == 0
        assert end_state(Traffic(folder), folder) == expected, f"killed before write {point}"
        survived += 1
    print(f"killed {survived} times, the last time before write {point - every}")
    assert point > 20
    record_property("tried", survived)
    record_property("survived", survived)


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_log(workplace: Path, request: pytest.FixtureRequest) -> Traffic:
    if request.param == "sqlite":
        return Traffic(workplace)
    server = request.getfixturevalue("postgres")
    return Traffic(workplace, create_database(server, f"rollout_{time.monotonic_ns()}"))


def test_four_controllers_make_one_decision_each_time(workplace: Path, shared_log: Traffic) -> None:
    traffic = shared_log
    traffic.controller(workplace).start(first_state())
    decided: list[str] = []
    is_over = threading.Event()

    def look() -> None:
        controller = traffic.controller(workplace)
        while not is_over.is_set():
            result = controller.step()
            decided.extend(result.decided)
            if result.state is not None and result.state.is_over:
                is_over.set()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        while not is_over.wait(0.05):
            state = traffic.controller(workplace).read()
            assert state is not None
            traffic.report(state)
            traffic.answer(state)
    finally:
        is_over.set()
        for thread in threads:
            thread.join(60)
    state = traffic.controller(workplace).read()
    assert state is not None
    assert state.phase is Phase.PROMOTED
    assert sorted(decided) == ["advance", "advance", "advance", "promoted"]
    assert [number for number, _ in audit_entries(state.run_id)] == ["1", "2", "3", "4", "5"]


@contextmanager
def looking(folder: Path) -> Iterator[None]:
    """Run a controller in a thread inside the block."""
    is_stopped = threading.Event()
    traffic = Traffic(folder)

    def look() -> None:
        controller = traffic.controller(folder)
        while not is_stopped.wait(0.1):
            controller.step()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        is_stopped.set()
        thread.join(60)


def serve_rollout(
    folder: Path,
    eyevsai: Eyevsai,
    candidate: int,
    change: Callable[[Any], Any] | None = None,
    *,
    label: bool = False,
    policy: str = POLICY,
) -> tuple[RolloutState, Clients]:
    """Roll out a version of a real server under traffic, and return the last state and clients."""
    (folder / "rollout.toml").write_text(policy, encoding="utf-8")
    served = Served(folder)
    if change is not None:
        served.change_candidate(change, candidate)
    clients = Clients(served.url, read_images(folder / "data" / DATASET), label=label)
    with served.running(), clients.running():
        eyevsai("rollout", "start", NAME, "--version", str(candidate), "--detach")
        with looking(folder):
            traffic = Traffic(folder)

            def is_over() -> bool:
                state = traffic.controller(folder).read()
                return state is not None and state.is_over

            wait_until(is_over, 120)
            before = len(clients.statuses)
            wait_until(lambda: len(clients.statuses) > before + 20)
        state = traffic.controller(folder).read()
        assert state is not None
    return state, clients


def test_good_version_is_promoted_under_real_traffic(workplace: Path, eyevsai: Eyevsai) -> None:
    state, clients = serve_rollout(workplace, eyevsai, GOOD)
    assert state.phase is Phase.PROMOTED, state.reason
    kinds = [each.kind for each in Traffic(workplace).log.read_decisions(f"rollout/{NAME}")]
    assert kinds == ["start", *["advance"] * 4, "promoted"]
    assert set(clients.statuses) == {200}
    by_key: dict[str, set[str]] = {}
    for key, arm in clients.arms:
        by_key.setdefault(key, set()).add(arm)
    assert {"candidate", "production"} <= set().union(*by_key.values())
    # a key changes its arm at most once, when the share grows or the rollout ends
    assert sum(len(arms) > 1 for arms in by_key.values()) < 0.05 * len(by_key)
    status = json.loads(eyevsai("rollout", "status", NAME, "--json").stdout)
    assert status["phase"] == "promoted"
    page = workplace / "rollout.html"
    eyevsai("rollout", "status", NAME, "--page", str(page))
    assert "Share and evidence by requests" in page.read_text(encoding="utf-8")
    back = eyevsai("rollback", NAME)
    assert f"models:/{NAME}/1" in back.stdout


def sleep_before(predict: Callable[..., Any]) -> Callable[..., Any]:
    def slow(squares: Any) -> Any:
        time.sleep(0.1)
        return predict(squares)

    return slow


def return_nan_for_some(predict: Callable[..., Any]) -> Callable[..., Any]:
    """Return NaN for dark images, which the probe is not."""

    def sometimes(squares: Any) -> Any:
        rows = np.array(predict(squares))
        for row, square in zip(rows, squares, strict=True):
            if int(np.asarray(square).sum()) % 3 == 0:
                row[:] = np.nan
        return rows

    return sometimes


def raise_always(predict: Callable[..., Any]) -> Callable[..., Any]:
    def broken(squares: Any) -> Any:
        raise RuntimeError("out of memory")

    return broken


@pytest.mark.parametrize(
    ("change", "policy", "reason"),
    [
        (sleep_before, POLICY.replace("500", "50"), "slow more often"),
        (return_nan_for_some, POLICY, "fails more often|failures in a row"),
        (raise_always, POLICY.replace("shadow,20", "20"), "failures in a row"),
    ],
    ids=["slow", "nan", "broken"],
)
def test_worse_version_is_rolled_back_without_a_failed_request(
    change: Callable[[Any], Any], policy: str, reason: str, workplace: Path, eyevsai: Eyevsai
) -> None:
    state, clients = serve_rollout(workplace, eyevsai, GOOD, change, policy=policy)
    assert state.phase is Phase.ROLLED_BACK, state.reason
    assert re.search(reason, state.reason)
    assert set(clients.statuses) == {200}
    assert aliases() == {"production": 1}


def test_version_that_predicts_worse_is_rolled_back_by_labels(
    workplace: Path, eyevsai: Eyevsai
) -> None:
    # a slow machine has few shadows: without labels, the steps must not pass
    policy = f"{POLICY}min_labels = 1\n"
    state, clients = serve_rollout(workplace, eyevsai, BAD, label=True, policy=policy)
    assert state.phase is Phase.ROLLED_BACK, state.reason
    assert "wrong more often" in state.reason or "disagrees" in state.reason
    assert set(clients.statuses) == {200}


def test_broken_candidate_gets_five_requests_of_a_server(workplace: Path, eyevsai: Eyevsai) -> None:
    """Nobody looks at the evidence: the server stops by itself."""
    served = Served(workplace)
    served.change_candidate(raise_always, GOOD)
    clients = Clients(served.url, read_images(workplace / "data" / DATASET))
    traffic = Traffic(workplace)
    with served.running():
        controller = traffic.controller(workplace)
        state = controller.start(first_state(plan="5", slow_ms=500.0))
        wait_until(lambda: served.server.service.table.get("candidate") is not None)
        wait_until(lambda: traffic.log.read_servers(NAME, 60))
        wait_until(lambda: "advance" in controller.step().decided)
        state = controller.read()
        assert state is not None
        router = served.server.service.router
        wait_until(lambda: router.status()["rollout"]["mode"] == "split")
        with clients.running():
            wait_until(lambda: router.status()["rollout"]["stopped"])
            before = len(clients.statuses)
            wait_until(lambda: len(clients.statuses) > before + 100)
        wait_until(lambda: controller.step().state.is_over)
    state = controller.read()
    assert state is not None
    assert state.phase is Phase.ROLLED_BACK
    assert "5 failures in a row" in state.reason
    answers = list(traffic.log.read_answers(NAME, state.steps))
    assert sum(each.arm == "candidate" for each in answers) == 5
    assert set(clients.statuses) == {200}


def test_gate_refuses_a_candidate_before_anything_is_written(
    workplace: Path, eyevsai: Eyevsai
) -> None:
    (workplace / "promotion.toml").write_text("floor = 0.99\n", encoding="utf-8")
    refused = eyevsai("rollout", "start", NAME, "--version", str(BAD), code=1)
    assert "is not rolled out, because it would not be promoted" in refused.stderr
    assert aliases() == {"production": 1}
    assert TAG not in MlflowClient().get_registered_model(NAME).tags


def test_command_line_shows_pauses_resumes_and_aborts(workplace: Path, eyevsai: Eyevsai) -> None:
    assert "has no rollout" in eyevsai("rollout", "status", NAME).stdout
    assert "has no rollout" in eyevsai("rollout", "abort", NAME, code=2).stderr
    started = eyevsai("rollout", "start", NAME, "--version", "2", "--detach")
    assert "waits: no server of this model reports" in started.stdout
    again = eyevsai("rollout", "start", NAME, "--version", "2", "--detach", "--json")
    assert json.loads(again.stdout)["decisions"][-1]["seq"] == 1
    other = eyevsai("rollout", "start", NAME, "--version", "3", "--detach", code=2)
    assert "is active: prepared" in other.stderr
    paused = eyevsai("rollout", "pause", NAME, "--reason", "lunch")
    assert "prepared, paused" in paused.stdout
    assert "paused already" in eyevsai("rollout", "pause", NAME, code=2).stderr
    eyevsai("rollout", "resume", NAME)
    eyevsai("rollout", "step", NAME, "--once")
    aborted = eyevsai("rollout", "abort", NAME, "--reason", "wrong version", "--json")
    assert json.loads(aborted.stdout)["phase"] == "aborted"
    page = workplace / "rollout.html"
    eyevsai("rollout", "status", NAME, "--page", str(page))
    assert "wrong version" in page.read_text(encoding="utf-8")
    assert "wrong version" in eyevsai("registry", "log", NAME).stdout
    assert eyevsai("rollout", "step", NAME, "--once", code=1).returncode == 1


def test_version_without_a_reference_is_refused(workplace: Path, eyevsai: Eyevsai) -> None:
    shutil.rmtree(fetch_model_dir(f"models:/{NAME}/2") / REFERENCE_FOLDER)
    refused = eyevsai("rollout", "start", NAME, "--version", "2", code=2)
    assert "has no drift reference" in refused.stderr


def test_servers_obey_the_same_tag_within_a_poll(workplace: Path, traffic: Traffic) -> None:
    servers = [Served(workplace, port=find_port()) for _ in range(2)]
    routers = [each.server.service.router for each in servers]

    def modes() -> set[str]:
        return {router.status()["rollout"]["mode"] for router in routers}

    with servers[0].running(), servers[1].running():
        controller = traffic.controller(workplace)
        controller.start(first_state(plan="20"))
        wait_until(lambda: len(traffic.log.read_servers(NAME, 60)) == len(servers))
        wait_until(lambda: "advance" in controller.step().decided, 30)
        wait_until(lambda: modes() == {"split"}, 3 * POLL_S)
        answers = [
            [router.route(f"user-{number}", "").arm for number in range(50)] for router in routers
        ]
        assert answers[0] == answers[1]  # a key has the same version on both
        controller.submit(Event(Kind.ABORT))
        wait_until(lambda: modes() == {"off"}, 3 * POLL_S)


def test_run_of_mlflow_run_is_a_stub(workplace: Path, eyevsai: Eyevsai) -> None:
    tags = {"mlflow.project.entryPoint": "rollout"}
    call_run_id = MlflowClient().create_run("0", tags=tags).info.run_id
    call = ("rollout", "start", NAME, "--version", "2", "--detach", "--json")
    started = json.loads(eyevsai(*call, MLFLOW_RUN_ID=call_run_id).stdout)
    assert started["run_id"] != call_run_id
    tags = MlflowClient().get_run(call_run_id).data.tags
    assert (tags["eyevsai.stub"], tags["eyevsai.job"]) == ("true", "rollout")


def test_unusable_log_changes_nothing(workplace: Path, eyevsai: Eyevsai) -> None:
    (workplace / "folder.db").mkdir()
    url = f"sqlite:///{workplace / 'folder.db'}"
    failed = eyevsai("rollout", "start", NAME, "--version", "2", "--log", url, code=None)
    assert failed.returncode in (1, 2)
    assert "folder.db" in failed.stderr
    off = eyevsai("rollout", "start", NAME, "--version", "2", "--log", "off", code=2)
    assert "without evidence" in off.stderr
    assert aliases() == {"production": 1}


def test_evidence_is_that_of_a_replay_of_the_log(workplace: Path, traffic: Traffic) -> None:
    controller = traffic.controller(workplace)
    traffic.report(controller.start(first_state(plan="20")))
    state = controller.step().state
    assert state is not None
    evidence = []
    for _ in range(3):
        traffic.answer(state, count=20, failing=0.2)
        evidence.append(controller.observe(state).evidence)
    assert evidence[0] != evidence[2]
    assert traffic.controller(workplace).observe(state).evidence == evidence[2]
    assert Traffic(workplace).controller(workplace).observe(state).evidence == evidence[2]
