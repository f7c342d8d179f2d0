"""A store with evaluated versions, a log with synthetic answers, and servers in this process."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import uvicorn
from mlflow import MlflowClient

from eyevsai.inference_log.records import CANDIDATE, FAILED, OK, PRODUCTION, SHADOW, Answer
from eyevsai.inference_log.settings import LogWriterSettings
from eyevsai.inference_log.store import LogStore
from eyevsai.rollout.controller import Controller
from eyevsai.rollout.policy import RolloutPolicy
from eyevsai.rollout.state import RolloutState
from eyevsai.serving.http.assembly import ModelServer, ServerConfig
from eyevsai.serving.http.settings import ServeSettings
from eyevsai.serving.rollout_log import StoredRolloutLog
from eyevsai.workflows.rollout.registry_writer import RegistryWriter

DATASET = "bars"
NAME = f"{DATASET}-deep_v1-standard"
# few answers prove a failure rate below 20 %; the checks of the gate have tests of their own
POLICY = (
    "min_time_s = 0\nmax_time_s = 600\nmin_requests = 10\nfailure_limit = 0.2\nslow_ms = 500\n"
    'plan = "shadow,20,50"\n'
)
POLL_S = 0.2
ANY_VERSION = "floor = 0\ntolerance = 1\nsignificance = 0\n"


def first_state(candidate: int = 2, production: int = 1, **policy: Any) -> RolloutState:
    """Return the state that `rollout start` passes to the controller."""
    values = {"min_time_s": 0, "min_requests": 10, "failure_limit": 0.2, "slow_ms": 500.0}
    now = time.time()
    return RolloutState(
        NAME,
        "",
        candidate,
        production,
        "ab",
        RolloutPolicy(**({"plan": "20,50"} | values | policy)),
        now,
        now,
    )


class Traffic:
    """Answers of a server that obeys the rollout, written to the log directly."""

    def __init__(self, folder: Path, url: str | None = None) -> None:
        self.store = LogStore.open(url or f"sqlite:///{folder / 'log.db'}")
        self.log = StoredRolloutLog(self.store)
        self._numbers = itertools.count()

    def controller(self, folder: Path) -> Controller:
        """Return a new controller, as another process would have one."""
        client = MlflowClient()
        return Controller(NAME, self.log, RegistryWriter(client, NAME, folder / "state", DATASET))

    def report(self, state: RolloutState, **values: Any) -> None:
        """Report that a server has loaded the candidate."""
        content = {"run": state.run_id, "seq": state.seq, "is_loaded": True, "failure": ""}
        self.log.report_server("server-a", NAME, content | {"tripped": ""} | values)

    def answer(self, state: RolloutState, count: int = 60, failing: float = 0.0) -> None:
        """Answer requests in the current step; a share of the candidate's answers fails."""
        tag = state.tag()
        if not tag.step:
            return
        records = []
        for index in range(count):
            number = next(self._numbers)
            arm = CANDIDATE if index < count * tag.fraction else PRODUCTION
            records.append(self._record(number, arm, tag.step, state, failing))
            if tag.mode == "shadow":
                record = self._record(number, SHADOW, tag.step, state, failing)
                record.id, record.shadow_of = f"{number:08}s", f"{number:08}"
                records.append(record)
        self.store.add_answers(records)

    def _record(
        self, number: int, arm: str, step: str, state: RolloutState, failing: float
    ) -> Answer:
        is_candidate = arm != PRODUCTION
        has_failed = is_candidate and number % 100 < 100 * failing
        return Answer(
            f"{number:08}",
            time.time(),
            NAME,
            state.candidate if is_candidate else state.production,
            arm,
            status=FAILED if has_failed else OK,
            label=None if has_failed else "across",
            model_ms=None if has_failed else 5.0,
            queue_ms=0.0,
            step=step,
        )

    def run(self, folder: Path, *, failing: float = 0.0, looks: int = 60) -> RolloutState:
        """Serve and look until the rollout is over, and return its state."""
        for _ in range(looks):
            state = self.controller(folder).step().state
            assert state is not None
            if state.is_over:
                return state
            self.report(state)
            self.answer(state, failing=failing)
        raise AssertionError(f"not over: {state.name}, {state.reason}")


class Served:
    """Server of `NAME` with real HTTP, in a thread of this process."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        state_dir = str(folder / "state")
        self.url_of_log = f"sqlite:///{folder / 'log.db'}"
        self.server = ModelServer(
            ServerConfig(
                ServeSettings(name=NAME, port=port, workers=2, poll_s=POLL_S, state_dir=state_dir),
                log=LogWriterSettings(log=self.url_of_log, state_dir=state_dir),
            )
        )
        self.server.load()
        self.url = self.server.bind().url
        config = uvicorn.Config(self.server.make_app(), log_level="warning", lifespan="on")
        self._uvicorn = uvicorn.Server(config)
        listener = self.server.listener
        assert listener is not None
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._uvicorn.serve(sockets=[listener.socket])), daemon=True
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve inside the block."""
        self._thread.start()
        wait_until(lambda: self._uvicorn.started)
        try:
            yield
        finally:
            self._uvicorn.should_exit = True
            self._thread.join(20)
            self.server.close()

    def change_candidate(self, change: Callable[[Any], Any], number: int) -> None:
        """Replace how a version predicts squares, when it has been loaded.

        Args:
            change: function of the original method that returns the new one.
            number: version to change.
        """

        def on_loaded(version: Any) -> None:
            if version.number == number:
                classifier = version._classifier
                classifier.predict_squares = change(classifier.predict_squares)

        self.server.service.table.on_loaded.append(on_loaded)


class Clients:
    """Clients that send images until they are stopped, and count what they get.

    Args:
        url: URL of the server.
        images: content of image files by class.
        label: send the true class as feedback for each answer.
    """

    def __init__(self, url: str, images: dict[str, list[bytes]], *, label: bool = False) -> None:
        self.url, self.images, self.label = url, images, label
        self.statuses: list[int] = []
        self.arms: list[tuple[str, str]] = []  # key and arm of each answer
        self._is_stopped = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(2)]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send inside the block."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._is_stopped.set()
            for thread in self._threads:
                thread.join(20)

    def _send(self, number: int) -> None:
        session = requests.Session()
        cases = [(name, image) for name, images in self.images.items() for image in images]
        random.Random(number).shuffle(cases)  # as in the test split, not class by class
        for index in itertools.count():
            if self._is_stopped.is_set():
                return
            name, image = cases[index % len(cases)]
            key = f"client-{number}-{index // 2}"  # each key comes twice
            answer = session.post(
                f"{self.url}/v1/predict",
                data=image,
                headers={"Content-Type": "image/png", "Eyevsai-Key": key},
                timeout=30,
            )
            self.statuses.append(answer.status_code)
            if answer.status_code != 200:
                continue
            content = answer.json()
            self.arms.append((key, content["arm"]))
            if self.label:
                feedback = {"id": content["id"], "label": name, "source": "rule:test"}
                session.post(f"{self.url}/v1/feedback", json=feedback, timeout=30)


def read_images(folder: Path) -> dict[str, list[bytes]]:
    """Return the content of the images of a dataset by class."""
    return {
        each.name: [path.read_bytes() for path in sorted(each.iterdir())]
        for each in sorted(folder.iterdir())
    }


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until a condition is true; fail after a time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timeout"
        time.sleep(0.02)
