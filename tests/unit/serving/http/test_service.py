from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from eyevsai.serving.http.answers import (
    CANDIDATE,
    NAMED,
    PRODUCTION,
    SHADOW,
    Answer,
    ImageError,
    ModelError,
    NotReadyError,
    PredictionError,
)
from eyevsai.serving.http.routing import RegistryState, Route
from eyevsai.serving.http.service import PredictionService
from eyevsai.serving.http.tasks import IdleTask
from eyevsai.serving.http.versions import VersionTable
from tests.unit.serving.http.conftest import Bench, make_faulty, make_image, make_version

VALID = np.full((1, 3), 1 / 3, dtype=np.float32)


class FixedRouter:
    """Router with one route, which notes the answers."""

    def __init__(self, table: VersionTable, **route: Any) -> None:
        self._table, self._route = table, route
        self.answers: list[Answer] = []

    def wanted(self, state: RegistryState) -> Mapping[str, int]:
        return {}

    def apply(self, state: RegistryState) -> None:
        pass

    def route(self, key: str | None, request_id: str) -> Route:
        return Route(**self._route)

    def on_answer(self, answer: Answer) -> None:
        self.answers.append(answer)

    def status(self) -> Mapping[str, Any]:
        return {}


def test_an_answer_equals_that_of_the_classifier_and_has_its_measurements(image: bytes) -> None:
    version = make_version(3, is_logged=True)
    bench = Bench(version)
    answer = bench.run(lambda service: service.predict(image, key="anna"))
    expected = version._classifier.predict(image)
    assert (answer.best, answer.label) == (expected.label, expected.label)
    assert answer.probability == pytest.approx(expected.probability, abs=1e-6)
    assert dict(answer.top(2)) == pytest.approx(dict(expected.top(2)), abs=1e-6)
    assert (answer.version, answer.arm, answer.key, answer.status) == (3, PRODUCTION, "anna", 200)
    assert (answer.outcome.width, answer.outcome.height) == (40, 32)
    assert answer.outcome.statistics.shape == (6,)
    assert len(answer.outcome.sha256) == 32
    assert answer.total_s >= answer.outcome.decode_s + answer.outcome.model_s > 0
    assert bench.answers == [answer]
    labels = {"model": "stripes", "version": "3"}
    assert bench.metric("eyevsai_requests_total", arm=PRODUCTION, code="200", **labels) == 1
    assert bench.metric("eyevsai_predictions_total", label=answer.best, **labels) == 1
    assert bench.metric("eyevsai_request_seconds_count", arm=PRODUCTION, **labels) == 1


def test_below_the_threshold_an_answer_is_unsure(image: bytes) -> None:
    version = make_version()
    version.threshold = 1.1
    bench = Bench(version)
    answer = bench.run(lambda service: service.predict(image))
    assert (answer.label, answer.is_unsure) == ("unsure", True)
    assert answer.best in version.classes
    assert bench.metric("eyevsai_unsure_total", model="stripes", version="1") == 1


def test_without_a_version_the_service_is_not_ready(image: bytes) -> None:
    bench = Bench()
    with pytest.raises(NotReadyError) as raised:
        bench.run(lambda service: service.predict(image))
    assert (raised.value.status, raised.value.reason) == (503, "not_ready")
    assert not bench.service.is_ready()
    assert bench.metric("eyevsai_rejected_total", model="stripes", reason="not_ready") == 1


def test_what_is_no_image_is_the_fault_of_the_client(image: bytes) -> None:
    bench = Bench(make_version())
    with pytest.raises(ImageError, match="not an image"):
        bench.run(lambda service: service.predict(b"no image"))
    assert [each.status for each in bench.answers] == [400]
    assert bench.metric("eyevsai_rejected_total", model="stripes", reason="image") == 1


@pytest.mark.parametrize(
    "row",
    [
        np.full((1, 3), np.nan, dtype=np.float32),
        np.array([[np.inf, 0, 0]], dtype=np.float32),
        np.ones((1, 2), dtype=np.float32) / 2,
        np.ones((1, 3), dtype=np.float32),
    ],
)
def test_invalid_probabilities_are_never_sent(row: np.ndarray, image: bytes) -> None:
    bench = Bench(make_faulty(lambda count: row))
    with pytest.raises(ModelError) as raised:
        bench.run(lambda service: service.predict(image))
    assert raised.value.status == 500
    (answer,) = bench.answers
    assert (answer.status, answer.outcome) == (500, None)


def test_images_of_a_request_get_one_version_and_the_first_bad_one_is_named(
    image: bytes,
) -> None:
    bench = Bench(make_version())
    answers = bench.run(
        lambda service: service.predict_all([make_image(number) for number in range(5)])
    )
    assert len({answer.id for answer in answers}) == 5
    assert bench.run(lambda service: service.predict_all([])) == []
    with pytest.raises(PredictionError) as raised:
        bench.run(lambda service: service.predict_all([image, image, b"bad", b"worse", image]))
    assert (raised.value.index, raised.value.status) == (2, 400)


def test_a_named_version_bypasses_the_router(image: bytes) -> None:
    bench = Bench(make_version(1), make_version(2))
    answer = bench.run(lambda service: service.predict(image, version=2))
    assert (answer.version, answer.arm) == (2, NAMED)
    with pytest.raises(PredictionError, match=r"Version 7 is not loaded\. Loaded versions: 1, 2"):
        bench.run(lambda service: service.predict(image, version=7))


def test_a_full_queue_refuses_at_once_and_what_is_queued_is_answered(image: bytes) -> None:
    release = threading.Event()

    def predict(count: int) -> np.ndarray:
        release.wait(10)
        return VALID

    bench = Bench(make_faulty(predict), size=1, queue=2)

    async def flood(service: PredictionService) -> list[Any]:
        first = asyncio.create_task(service.predict(image))
        while not service.pool.busy:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(service.predict(image)) for _ in range(6)]
        await asyncio.sleep(0)
        start = time.perf_counter()
        refused = [task for task in others if task.done()]
        assert time.perf_counter() - start < 0.05
        release.set()
        results = await asyncio.gather(first, *others, return_exceptions=True)
        assert len(refused) == 4
        return results

    results = bench.run(flood)
    errors = [each for each in results if isinstance(each, PredictionError)]
    assert [(each.status, each.reason) for each in errors] == [(503, "queue")] * 4
    assert sum(isinstance(each, Answer) for each in results) == 3
    assert len(bench.answers) == 3
    assert bench.metric("eyevsai_rejected_total", model="stripes", reason="queue") == 4


def test_a_stuck_worker_is_replaced_and_its_request_gets_504(image: bytes) -> None:
    release, hangs = threading.Event(), iter([True])

    def predict(count: int) -> np.ndarray:
        if next(hangs, False):
            release.wait(30)
        return VALID

    bench = Bench(make_faulty(predict), size=1, stuck_after_s=0.3)

    async def hang(service: PredictionService) -> Answer:
        assert service.is_live()
        with pytest.raises(PredictionError) as raised:
            await service.predict(image)
        assert (raised.value.status, raised.value.reason) == (504, "timeout")
        answer: Answer = await service.predict(image)  # by the new worker
        assert not service.is_live()
        assert service.status()["queue"]["stuck"] == 1
        release.set()
        while service.pool.abandoned:
            await asyncio.sleep(0.01)
        assert service.is_live()
        return answer

    assert bench.run(hang).status == 200
    assert [each.status for each in bench.answers] == [504, 200]


def fail(count: int) -> np.ndarray:
    raise RuntimeError("out of order")


def wait(count: int) -> np.ndarray:
    time.sleep(1)
    return VALID


@pytest.mark.parametrize(("predict", "status"), [(fail, 500), (wait, 504)])
def test_production_answers_when_the_candidate_fails_or_is_late(
    predict: Any, status: int, image: bytes
) -> None:
    production, candidate = make_version(1), make_faulty(predict, 2)
    bench = Bench(
        production,
        candidate,
        router=lambda table: FixedRouter(
            table,
            version=candidate,
            arm=CANDIDATE,
            step="run:1",
            fallback=production,
            late_after_s=0.2,
        ),
    )
    answer = bench.run(lambda service: service.predict(image))
    assert (answer.version, answer.arm, answer.status, answer.step) == (1, PRODUCTION, 200, "")
    failed, answered = bench.answers
    assert (failed.version, failed.arm, failed.status) == (2, CANDIDATE, status)
    assert failed.step == "run:1"
    assert answered is answer
    for reason in ("late", "timeout"):  # the client got an answer
        assert bench.metric("eyevsai_rejected_total", model="stripes", reason=reason) == 0
    assert bench.service.router.answers == bench.answers


def test_a_bad_image_is_not_given_to_the_fallback() -> None:
    production, candidate = make_version(1), make_version(2)
    bench = Bench(
        production,
        candidate,
        router=lambda table: FixedRouter(
            table, version=candidate, arm=CANDIDATE, fallback=production
        ),
    )
    with pytest.raises(ImageError):
        bench.run(lambda service: service.predict(b"bad"))
    assert [each.arm for each in bench.answers] == [CANDIDATE]


def test_a_shadow_gets_the_image_afterwards(image: bytes) -> None:
    production, shadow = make_version(1), make_version(2)
    bench = Bench(
        production,
        shadow,
        router=lambda table: FixedRouter(table, version=production, shadow=shadow, step="run:0"),
    )

    async def predict(service: PredictionService) -> Answer:
        answer: Answer = await service.predict(image, key="anna")
        while len(bench.answers) < 2:
            await asyncio.sleep(0.01)
        return answer

    answer = bench.run(predict)
    second = bench.answers[1]
    assert (second.arm, second.version, second.shadow_of) == (SHADOW, 2, answer.id)
    assert (second.key, second.step, second.status) == ("anna", "run:0", 200)
    labels = {"model": "stripes", "version": "2"}
    assert bench.metric("eyevsai_requests_total", arm=SHADOW, code="200", **labels) == 1
    assert bench.metric("eyevsai_predictions_total", label=second.best, **labels) == 0


def test_a_shadow_gets_the_image_of_a_failure_too(image: bytes) -> None:
    """Otherwise failures of production would be missing, and equal versions would differ."""

    def fail(count: int) -> np.ndarray:
        raise RuntimeError("out of memory")

    production, shadow = make_faulty(fail, 1), make_version(2)
    bench = Bench(
        production,
        shadow,
        router=lambda table: FixedRouter(table, version=production, shadow=shadow, step="run:0"),
    )

    async def predict(service: PredictionService) -> None:
        with pytest.raises(ModelError):
            await service.predict(image, key="anna")
        while len(bench.answers) < 2:
            await asyncio.sleep(0.01)

    bench.run(predict)
    first, second = bench.answers
    assert (first.arm, first.status) == (PRODUCTION, 500)
    assert (second.arm, second.status, second.shadow_of) == (SHADOW, 200, first.id)
    assert (second.key, second.step) == ("anna", "run:0")


def test_shadows_wait_until_a_core_is_left_for_the_event_loop(image: bytes) -> None:
    release = threading.Event()

    def predict(count: int) -> np.ndarray:
        release.wait(10)
        return VALID

    shadowed: list[int] = []
    version, busy = make_version(2), make_faulty(predict)
    bench = Bench(busy, size=2)

    async def occupy(service: PredictionService) -> None:
        request = asyncio.create_task(service.predict(image))
        while service.pool.busy < 1:
            await asyncio.sleep(0.01)
        assert service.pool.submit_idle(IdleTask(version, image, lambda _: shadowed.append(1)))
        await asyncio.sleep(0.2)
        assert not shadowed  # one of two workers is busy
        release.set()
        await request
        while not shadowed:
            await asyncio.sleep(0.01)

    bench.run(occupy)


def test_shadows_are_dropped_before_any_request_waits(image: bytes) -> None:
    release = threading.Event()

    def predict(count: int) -> np.ndarray:
        release.wait(10)
        return VALID

    production, shadow = make_version(1), make_faulty(predict, 2)
    bench = Bench(
        production,
        shadow,
        router=lambda table: FixedRouter(table, version=production, shadow=shadow),
    )

    async def flood(service: PredictionService) -> None:
        for _ in range(80):
            await service.predict(image)
        release.set()

    bench.run(flood)
    dropped = bench.metric("eyevsai_shadow_dropped_total", model="stripes")
    assert dropped in (80 - 64, 80 - 64 - 1)  # one is in work, if the machine had time for it
    assert sum(each.arm == PRODUCTION for each in bench.answers) == 80


def test_a_sink_that_fails_costs_no_answer(image: bytes, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(make_version())

    def sink(answer: Answer) -> None:
        raise OSError("disk full")

    bench.service.sinks.insert(0, sink)
    assert bench.run(lambda service: service.predict(image)).status == 200
    assert len(bench.answers) == 1
    assert "An answer was not recorded" in caplog.text


def test_waiting_images_are_predicted_at_once_by_a_version_with_batches(image: bytes) -> None:
    sizes: list[int] = []
    started, release = threading.Event(), threading.Event()

    def predict(count: int) -> np.ndarray:
        sizes.append(count)
        started.set()
        release.wait(10)
        return np.repeat(VALID, count, 0)

    bench = Bench(make_faulty(predict, batch_size=4), size=1)

    async def fill(service: PredictionService) -> list[Any]:
        tasks = [asyncio.create_task(service.predict(image))]
        await asyncio.to_thread(started.wait, 10)
        images = [image, b"bad", image, image, image, image]
        tasks += [asyncio.create_task(service.predict(each)) for each in images]
        await asyncio.sleep(0.05)
        release.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = bench.run(fill)
    assert sizes == [1, 3, 2]  # the bad image has no place in the batch
    assert isinstance(results[2], ImageError)
    assert sum(isinstance(each, Answer) for each in results) == 6


def test_a_short_queue_holds_what_idle_workers_take_at_once(image: bytes) -> None:
    bench = Bench(make_version(), size=2, queue=1)
    answers = bench.run(lambda service: service.predict_all([image] * 4))
    assert [answer.status for answer in answers] == [200] * 4


def test_the_end_waits_for_all_workers_together(image: bytes) -> None:
    release = threading.Event()

    def predict(count: int) -> np.ndarray:
        release.wait(30)
        return VALID

    bench = Bench(make_faulty(predict), size=4)

    async def occupy(service: PredictionService) -> float:
        tasks = [asyncio.create_task(service.predict(image)) for _ in range(4)]
        while service.pool.busy < 4:
            await asyncio.sleep(0.01)
        start = time.perf_counter()
        await asyncio.to_thread(service.pool.close, 0.3)
        seconds = time.perf_counter() - start
        release.set()
        await asyncio.gather(*tasks)
        return seconds

    assert bench.run(occupy) < 0.9


def test_a_stuck_worker_without_a_successor_still_gets_504(
    image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def predict(count: int) -> np.ndarray:
        release.wait(30)
        return VALID

    bench = Bench(make_faulty(predict), size=1, stuck_after_s=0.3)

    def start() -> None:
        raise RuntimeError("can't start new thread")

    async def hang(service: PredictionService) -> None:
        monkeypatch.setattr(service.pool, "_start_worker", start)
        for _ in range(2):  # the second one waits in the queue
            with pytest.raises(PredictionError) as raised:
                await asyncio.wait_for(service.predict(image), 5)
            assert (raised.value.status, raised.value.reason) == (504, "timeout")
        assert not service.is_live()
        monkeypatch.undo()
        while service.pool.abandoned == 0:
            await asyncio.sleep(0.01)
        release.set()
        assert (await service.predict(image)).status == 200

    bench.run(hang)


def test_unexpected_error_of_a_worker_is_in_the_log_and_not_in_the_answer(
    image: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def read(cell: Any, depth: Any) -> Any:
        raise RuntimeError("/home/anna/secret.png")

    bench = Bench(make_version(), size=1)
    bench.table.production.read = read

    async def predict_twice(service: PredictionService) -> list[Any]:
        return await asyncio.gather(
            service.predict(image), service.predict(image), return_exceptions=True
        )

    errors = bench.run(predict_twice)
    ids = [answer.id for answer in bench.answers]
    assert len(set(ids)) == 2
    for error, answer_id in zip(errors, ids, strict=True):
        assert isinstance(error, ModelError)
        assert (error.status, error.reason) == (500, "model")
        assert "secret" not in error.message
        assert answer_id in error.message
        assert any(
            answer_id in record.getMessage() and record.exc_info for record in caplog.records
        )
    assert all("secret" in answer.error for answer in bench.answers)  # in the inference log
