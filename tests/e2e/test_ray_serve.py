"""`eyevsai serve --executor ray`: replicas behind Ray's proxy on a cluster of two nodes."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from mlflow import MlflowClient

from eyevsai.core.errors import UserError
from eyevsai.executors.ray import connected_to_ray
from eyevsai.inference_log.store import LogStore
from eyevsai.registry.rollout_tag import SPLIT, TAG, RolloutTag
from eyevsai.serving.client import Client
from tests.conftest import create_database, find_port
from tests.e2e.test_serve import (  # noqa: F401, fixtures
    NAME,
    PNG,
    Process,
    image,
    served,
    served_store,
    set_alias,
    wait_until,
    workplace,
)

pytestmark = [
    pytest.mark.skipif(
        find_spec("ray") is None or find_spec("opencensus") is None,
        reason="no ray-serve: pip install -e '.[ray-serve]'",
    ),
    pytest.mark.xdist_group("ray_serve"),  # the tests look for replicas among all processes
]
POLL_S = 0.5
FLUSH_S = 1.0  # of the log: answers of a killed process that are not written yet
SLACK_S = 2.0  # of a busy machine
TITLE = f"ray::ServeReplica:eyevsai-{NAME}"


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Return a cluster of a head without replicas and two machines with one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def find_replicas() -> list[int]:
    """Return the process ids of the replicas."""
    pids = []
    for process in psutil.process_iter(["cmdline"]):
        if " ".join(process.info["cmdline"] or ()).startswith(TITLE):
            pids.append(process.pid)
    return pids


def read_pages(first: int) -> list[dict[str, Any]]:
    """Return the status pages of the replicas, which have ports from `first` on."""
    pages = []
    for port in range(first, first + 4):
        with contextlib.suppress(requests.ConnectionError):
            pages.append(requests.get(f"http://127.0.0.1:{port}/v1/status", timeout=5).json())
    return pages


class Load:
    """Threads that send images until `stop`: raw requests, some with many images, and the client.

    A request with many images takes so long that each replica is answering one when it is killed.
    """

    def __init__(self, url: str, content: bytes) -> None:
        self.url, self.content = url, content
        self.statuses: Counter[int] = Counter()
        self.answered: list[tuple[float, str]] = []  # time and id of each answer
        self.unexpected: list[str] = []
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=target)
            for target in (
                *(self._send_images, self._send_many, self._send_many, self._send_many),
                *(self._use_client, self._use_client),
            )
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop, and wait for the last answers."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _send_images(self) -> None:
        for got in self._send("/v1/predict", data=self.content, headers=PNG):
            self.answered.append((time.time(), got.json()["id"]))

    def _send_many(self) -> None:
        text = base64.b64encode(self.content).decode()
        body = {"dataframe_records": [{"image": text}] * 300}
        for got in self._send("/invocations", json=body):
            assert len(got.json()["predictions"]) == 300

    def _send(self, path: str, **options: Any) -> Iterator[requests.Response]:
        """Send requests until `stop`, count their statuses, and yield the answers."""
        session = requests.Session()
        while not self._stopped.is_set():
            try:
                got = session.post(self.url + path, timeout=60, **options)
            except requests.RequestException as error:
                self.unexpected.append(repr(error))
                continue
            self.statuses[got.status_code] += 1
            if got.status_code == 200:
                yield got
            elif got.status_code != 503 or "Retry-After" not in got.headers:
                self.unexpected.append(f"{got.status_code} {got.headers} {got.text}")

    def _use_client(self) -> None:
        with Client(self.url) as client:
            while not self._stopped.is_set():
                try:
                    self.answered.append((time.time(), client.predict(self.content).id))
                except UserError as error:
                    self.unexpected.append(f"client: {error}")


def count_logged(url: str, ids: list[str]) -> Counter[str]:
    """Return how often each id is in the log."""
    from sqlalchemy import select

    from eyevsai.inference_log.schema import answers

    store = LogStore.open(url)
    with store.reading() as connection:
        logged = Counter(connection.execute(select(answers.c.id)).scalars())
    store.close()
    return Counter({each: logged[each] for each in ids})


@pytest.mark.slow
@pytest.mark.processes("a cluster of two nodes, the command, and a replica that is killed")
def test_killed_replica_costs_no_client_an_answer_and_comes_back(
    workplace: Path,  # noqa: F811
    image: bytes,  # noqa: F811
    cluster: Any,
    postgres: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = create_database(postgres, "ray_serve")
    monkeypatch.setenv("EYEVSAI_LOG", log)
    monkeypatch.setenv("EYEVSAI_LOG_SECRET", "a secret of this test")
    pages = find_port()
    arguments = (
        *("--executor", "ray", "--ray-address", cluster.address, "--replicas", "2"),
        *("--poll-s", str(POLL_S), "--metrics-port", str(pages)),
    )
    with served(workplace, *arguments) as server:
        url = server.url
        assert "on 2 replicas" in server.text
        assert {page["queue"]["workers"] for page in read_pages(pages)} == {1}
        assert requests.get(f"{url}/live", headers={"Host": "evil.example"}).status_code == 403
        load = Load(url, image)
        time.sleep(3)
        before = find_replicas()
        assert len(before) == 2
        killed_at = time.time()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: len(set(find_replicas()) - set(before)) == 1, 90)
        wait_until(lambda: len(read_pages(pages)) == 2, 60)
        time.sleep(2)
        load.stop()
        assert not load.unexpected
        assert set(load.statuses) == {200, 503}
        assert load.statuses[503] < 20
        assert load.statuses[200] > 100
        assert max(at for at, _ in load.answered) > killed_at + 2

        _check_rollout(url, image, pages)

        assert server.stop() == 0, server.text
    assert not find_replicas()
    assert "Traceback" not in server.text
    counts = count_logged(log, [each for _, each in load.answered])
    assert set(counts.values()) <= {0, 1}
    lost = [at for at, each in load.answered if not counts[each]]
    # of the answers of the killed process, those of the last second were not written yet
    assert all(killed_at - FLUSH_S - SLACK_S < at < killed_at + SLACK_S for at in lost)
    assert len(lost) < len(load.answered) / 4


def _check_rollout(url: str, content: bytes, pages: int) -> None:
    """Check that both replicas obey a tag within one poll, and split keys equally."""
    tag = RolloutTag("run", 1, SPLIT, 5000, "ab", 2, 1, "split-1", 5000.0)
    MlflowClient().set_registered_model_tag(NAME, TAG, tag.to_json())
    began_at = time.monotonic()
    wait_until(
        lambda: (
            [
                page["router"]["rollout"] and page["router"]["rollout"]["share"]
                for page in read_pages(pages)
            ]
            == [0.5, 0.5]
        ),
        30,
    )
    # the candidate is loaded within the poll in which it is noticed
    assert time.monotonic() - began_at < 2 * POLL_S + SLACK_S
    arms: dict[str, set[str]] = {}
    with ThreadPoolExecutor(4) as threads, Client(url) as client:  # both replicas answer
        keys = [f"user-{index % 20}" for index in range(200)]
        answers = threads.map(lambda key: client.predict(content, key=key), keys)
        for key, answer in zip(keys, answers, strict=True):
            arms.setdefault(key, set()).add(answer.arm)
    assert all(len(each) == 1 for each in arms.values()), arms
    assert len(set().union(*arms.values())) == 2
    for page in read_pages(pages):
        metrics = requests.get(page["replica"]["metrics"], timeout=5).text
        assert 'arm="candidate"' in metrics
        assert 'eyevsai_rollout_share{model="' in metrics


@pytest.mark.slow
@pytest.mark.processes("a cluster of two nodes, and a temporary one")
def test_temporary_cluster_starts_beside_one_that_runs(cluster: Any) -> None:
    import ray

    with connected_to_ray(None, 3):
        assert ray.cluster_resources()["CPU"] == 3
        assert ray.get_runtime_context().gcs_address != cluster.address


@pytest.mark.slow
@pytest.mark.processes("a temporary cluster and the command")
def test_replica_that_cannot_load_fails_with_one_line(
    workplace: Path,  # noqa: F811
) -> None:
    MlflowClient().delete_registered_model_alias(NAME, "production")
    with served(workplace, "--executor", "ray") as server:
        assert server.process.wait(180) == 1
        wait_until(lambda: "no alias" in server.text)
    assert "A replica did not start." in server.text
    assert "Traceback" not in server.text
    assert not find_replicas()


@pytest.mark.slow
@pytest.mark.processes("a temporary cluster, the command, and its end by a signal")
def test_temporary_cluster_serves_with_the_log_of_this_machine(
    workplace: Path,  # noqa: F811
    image: bytes,  # noqa: F811
) -> None:
    log = f"sqlite:///{workplace / 'log.db'}"
    arguments = ("--executor", "ray", "--cpus-per-replica", "2", "--log", log)
    with served(workplace, *arguments) as server:
        url = server.url
        got = requests.post(f"{url}/v1/predict", data=image, headers=PNG, timeout=30)
        assert got.status_code == 200
        status = requests.get(f"{url}/v1/status", timeout=30).json()
        assert status["queue"]["workers"] == 2
        assert requests.get(f"{url}/metrics", timeout=30).status_code == 404
        assert server.stop() == 0, server.text
    assert count_logged(log, [got.json()["id"]]) == Counter({got.json()["id"]: 1})
    assert not find_replicas()


@pytest.fixture
def other_application(cluster: Any) -> Iterator[str]:
    """Run Ray Serve with an application of somebody else on the cluster; return its URL."""
    import ray
    from ray import serve

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Other:
        def __call__(self, request: Any) -> str:
            return "other"

    port = find_port()
    ray.init(address=cluster.address, log_to_driver=False)
    serve.start(http_options=serve.HTTPOptions(host="127.0.0.1", port=port))
    serve.run(Other.bind(), name="other", route_prefix="/other")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


@pytest.mark.slow
@pytest.mark.processes("a cluster with an application of somebody else, and the command twice")
def test_serve_that_runs_already_is_used_and_left_alone(
    workplace: Path,  # noqa: F811
    image: bytes,  # noqa: F811
    cluster: Any,
    other_application: str,
) -> None:
    arguments = ("--executor", "ray", "--ray-address", cluster.address)
    with served(workplace, *arguments, "--port", str(find_port())) as server:
        assert server.process.wait(120) == 2
        wait_until(lambda: "Ray Serve runs on this cluster already" in server.text)
    with served(workplace, *arguments) as server:
        assert server.url == other_application
        got = requests.post(f"{server.url}/v1/predict", data=image, headers=PNG, timeout=30)
        assert got.status_code == 200
        assert server.stop() == 0, server.text
    assert not find_replicas()
    assert requests.get(f"{other_application}/other", timeout=30).text == "other"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--replicas", "2"), "--replicas requires a Ray cluster: add --executor ray"),
        (("--ray-address", "auto"), "--ray-address requires a Ray cluster"),
        (("--gpus-per-replica", "1"), "--gpus-per-replica requires a Ray cluster"),
        (
            ("--executor", "ray", "--ray-address", "127.0.0.1:1"),
            "Cannot connect to a Ray cluster at 127.0.0.1:1",
        ),
        (("--executor", "ray", "--host", "0.0.0.0"), "no token is set"),
    ],
)
def test_settings_of_replicas_are_checked(
    eyevsai: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    refused = eyevsai("serve", NAME, *arguments, code=2)
    assert message in refused.stderr
