"""Predictions for requests: route, worker, fallback, shadow, metrics and log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eyevsai.serving.http.answers import (
    NAMED,
    PRODUCTION,
    SHADOW,
    Answer,
    ImageError,
    NotReadyError,
    Outcome,
    PredictionError,
)
from eyevsai.serving.http.metrics import Metrics
from eyevsai.serving.http.routing import Route, Router
from eyevsai.serving.http.tasks import IdleTask, Task
from eyevsai.serving.http.versions import LoadedVersion, Result, VersionTable
from eyevsai.serving.http.workers import WorkerPool

log = logging.getLogger("eyevsai")

Sink = Callable[[Answer], None]


class PredictionService:
    """Predictions of a registered model.

    Args:
        model: name of the registered model.
        table: loaded versions.
        router: choice of the version for each request.
        pool: worker threads.
        metrics: metrics of the server.
        new_id: source of ids.
        id_of_request: returns the id of the answer to a request by its UUID, model, key and
            content; None for an unusable UUID.
        sinks: called with each answer in the event loop, or, of a shadow, in the idle thread; they
            must not block.
    """

    def __init__(
        self,
        model: str,
        table: VersionTable,
        router: Router,
        pool: WorkerPool,
        *,
        metrics: Metrics,
        new_id: Callable[[], str],
        id_of_request: Callable[[str, str, str | None, bytes], str | None] = lambda *_: None,
        sinks: Sequence[Sink] = (),
    ) -> None:
        self.model, self.table, self.router, self.pool = model, table, router, pool
        self.metrics, self.new_id, self.sinks = metrics, new_id, list(sinks)
        self.id_of_request = id_of_request
        self.is_draining = False
        # further parts of /v1/status by name
        self.status_parts: dict[str, Callable[[], Mapping[str, Any]]] = {}
        table.on_loaded.append(metrics.prepare)

    def is_ready(self) -> bool:
        """Return True if requests can be answered: a version is loaded and was probed."""
        return self.table.production is not None and not self.is_draining

    def is_live(self) -> bool:
        """Return True if all workers run and none is stuck."""
        return self.pool.is_live()

    def status(self) -> dict[str, Any]:
        """Return the state of the server as JSON values."""
        roles = self.table.roles()
        versions = [
            {
                "version": version.number,
                "roles": sorted(role for role, number in roles.items() if number == version.number),
                "format": version.format,
                "classes": len(version.classes),
                "threshold": version.threshold,
                "batch_size": version.batch_size,
            }
            for version in self.table.loaded()
        ]
        queue = {
            "waiting": self.pool.waiting,
            "limit": self.pool.queue_size,
            "workers": self.pool.size,
            "busy": self.pool.busy,
            "stuck": self.pool.abandoned,
        }
        return {
            "model": self.model,
            "ready": self.is_ready(),
            "live": self.is_live(),
            "draining": self.is_draining,
            "versions": versions,
            "queue": queue,
            "router": dict(self.router.status()),
            **{name: dict(part()) for name, part in self.status_parts.items()},
        }

    async def predict(
        self,
        image: Any,
        *,
        key: str | None = None,
        version: int | None = None,
        bad_image_status: int = 400,
        request_id: str | None = None,
    ) -> Answer:
        """Return the answer for one image, which is decoded in a worker.

        Args:
            image: content of an image file, base64, nested lists, or H,W,3 uint8 RGB.
            key: key of the client, which gets the same version again; None without one.
            version: number of a loaded version; None for that of the router.
            bad_image_status: HTTP status for a content that is no image; that of MLflow by default.
            request_id: UUID of the client's request, which may be sent again.

        Raises:
            PredictionError: there is no answer; `status` and `reason` have the cause.
        """
        answer_id: str | None = None
        if request_id is not None and isinstance(image, bytes):
            answer_id = self.id_of_request(request_id, self.model, key, image)
        answer_id = answer_id or self.new_id()
        route = self._route(key, answer_id, version)
        return await self._answer(image, answer_id, route, key, bad_image_status)

    async def predict_all(
        self, images: Sequence[Any], *, key: str | None = None, version: int | None = None
    ) -> list[Answer]:
        """Return the answers of one version for images; as many at a time as there are workers.

        Raises:
            PredictionError: there is no answer for an image; `index` is that of the first one.
        """
        request_id = self.new_id()
        route = self._route(key, request_id, version)
        if key is None and len(images) > 1:
            key = request_id  # a rollout counts the request once: all its images have one version
        answers: list[Answer] = []
        for start in range(0, len(images), self.pool.size):
            chunk = images[start : start + self.pool.size]
            results = await asyncio.gather(
                *(self._answer(image, self.new_id(), route, key) for image in chunk),
                return_exceptions=True,
            )
            for index, result in enumerate(results, start):
                if isinstance(result, PredictionError):
                    raise _at_index(result, index)
                if isinstance(result, BaseException):
                    raise result
                answers.append(result)
        return answers

    def emit(self, answer: Answer) -> None:
        """Pass an answer to metrics, router and sinks. Their failures are logged, not raised."""
        for sink in (self.metrics.observe, self.router.on_answer, *self.sinks):
            try:
                sink(answer)
            except Exception:  # the client gets its answer all the same
                log.exception("An answer was not recorded.")

    def _route(self, key: str | None, request_id: str, number: int | None) -> Route:
        if number is None:
            try:
                return self.router.route(key, request_id)
            except NotReadyError as error:
                self.metrics.reject(error.reason)
                raise
        version = self.table.find(number)
        if version is None:
            loaded = ", ".join(str(each.number) for each in self.table.loaded()) or "none"
            raise PredictionError(
                f"Version {number} is not loaded. Loaded versions: {loaded}.", 404, "version"
            )
        return Route(version, NAMED)

    async def _answer(
        self,
        image: Any,
        answer_id: str,
        route: Route,
        key: str | None,
        bad_image_status: int = 400,
    ) -> Answer:
        """Return the answer of a route, or of its fallback."""
        attempt = _Attempt(
            self, image, answer_id, route.version, route.arm, route.step, key, bad_image_status
        )
        try:
            answer = await attempt.run(route.late_after_s)
        except PredictionError:
            if route.shadow is not None and not attempt.is_refused:
                # a rollout compares failures: those of production count, too
                self._shadow(image, attempt, route.shadow)
            if route.fallback is None or attempt.is_refused:
                raise
            # without the step of the rollout, in which the candidate's failure is the one event
            attempt = _Attempt(self, image, self.new_id(), route.fallback, PRODUCTION, "", key)
            answer = await attempt.run(None)
        if route.shadow is not None:
            self._shadow(image, attempt, route.shadow)
        return answer

    def _shadow(self, image: Any, attempt: _Attempt, version: LoadedVersion) -> None:
        """Queue the image of an attempt for another version."""

        def record(result: Result) -> None:
            if isinstance(result, ImageError):
                return
            failed = isinstance(result, Exception)
            self.emit(
                Answer(
                    id=self.new_id(),
                    at=time.time(),
                    model=self.model,
                    version=version.number,
                    classes=version.classes,
                    arm=SHADOW,
                    key=attempt.key,
                    step=attempt.step,
                    threshold=version.threshold,
                    outcome=None if isinstance(result, Exception) else result,
                    status=500 if failed else 200,
                    error=str(result) if failed else "",
                    shadow_of=attempt.answer_id,
                )
            )

        if not self.pool.submit_idle(IdleTask(version, image, record)):
            self.metrics.drop_shadow()


@dataclass
class _Attempt:
    """One image for one version.

    Attributes:
        bad_image_status: status of a content that is no image.
        is_refused: the request was refused for a reason that no other version could change.
    """

    service: PredictionService
    image: Any
    answer_id: str
    version: LoadedVersion
    arm: str
    step: str
    key: str | None
    bad_image_status: int = 400
    is_refused: bool = False

    def __post_init__(self) -> None:
        self._at, self._start = time.time(), time.perf_counter()

    async def run(self, late_after_s: float | None) -> Answer:
        """Return the answer; every answer and failure is recorded.

        Raises:
            PredictionError: the image was refused, or the version failed or took longer than
                `late_after_s`.
        """
        task = None
        try:
            task = self.service.pool.submit(self.version, self.image)
            outcome = await self._wait(task, late_after_s)
        except PredictionError as error:
            if isinstance(error, ImageError) and error.status == 400:
                error.status = self.bad_image_status
            if error.__cause__ is not None:  # unexpected, with internals of the server
                log.error("Answer %s failed.", self.answer_id, exc_info=error.__cause__)
                error.message = (
                    f"The prediction failed. The server's log has the reason: {self.answer_id}."
                )
            self.is_refused = isinstance(error, ImageError) or error.status == 503
            if self.is_refused or (error.status == 504 and late_after_s is None):
                self.service.metrics.reject(error.reason)  # else another version answers
            if error.status != 503:  # a refused request is no answer
                self.service.emit(self._make_answer(task, None, error))
            raise
        answer = self._make_answer(task, outcome, None)
        self.service.emit(answer)
        return answer

    async def _wait(self, task: Task, late_after_s: float | None) -> Outcome:
        if late_after_s is None:
            return await task.future
        finished, _ = await asyncio.wait((task.future,), timeout=late_after_s)
        if not finished:
            task.future.cancel()
            raise PredictionError(
                f"{self.version.uri} took more than {late_after_s:g} s.", 504, "late"
            )
        return task.future.result()

    def _make_answer(
        self, task: Task | None, outcome: Outcome | None, error: PredictionError | None
    ) -> Answer:
        return Answer(
            id=self.answer_id,
            at=self._at,
            model=self.service.model,
            version=self.version.number,
            classes=self.version.classes,
            arm=self.arm,
            key=self.key,
            step=self.step,
            threshold=self.version.threshold,
            outcome=outcome,
            status=200 if error is None else error.status,
            error="" if error is None else str(error),
            queue_s=0.0 if task is None else task.queue_s,
            total_s=time.perf_counter() - self._start,
            content=self.image if isinstance(self.image, bytes) else None,
        )


def _at_index(error: PredictionError, index: int) -> PredictionError:
    """Return an error for the image at a position; the images of a batch share their error."""
    return PredictionError(
        error.message, error.status, error.reason, index=index, retry_after=error.retry_after
    )
