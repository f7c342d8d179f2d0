"""Worker threads: decode, resize and predict, outside of the event loop.

One hop takes an image from the event loop to a worker, another one brings the result back. Runtimes
and decoders release Python's lock, so that the threads use all cores. Idle work, such as shadow
predictions, has a thread of its own, to which the operating system gives only time that no other
thread of the machine wants.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from eyevsai.serving.http.answers import ModelError, PredictionError
from eyevsai.serving.http.tasks import IdleTask, Task
from eyevsai.serving.http.versions import LoadedVersion, Result

log = logging.getLogger("eyevsai")

WATCH_EVERY_S = 0.5  # interval of the watchdog
IDLE_TASKS = 64  # length of the queue of idle work
MAX_ABANDONED = 4  # stuck threads per worker that are replaced; each holds memory until it ends
RETRY_AFTER_S = 1  # hint for clients while the queue is full


class _Worker:
    """State of a thread: the tasks that it works on, since when, and whether it was replaced."""

    def __init__(self) -> None:
        self.tasks: Sequence[Task] = ()
        self.since = 0.0
        self.is_abandoned = False
        self.thread: threading.Thread | None = None

    def is_alive(self) -> bool:
        """Return True while the thread runs."""
        return self.thread is not None and self.thread.is_alive()


class WorkerPool:
    """Threads that predict images from a bounded queue.

    Args:
        size: number of threads.
        queue_size: largest number of tasks that wait; more are refused.
        stuck_after_s: seconds after which a task fails with 504, and its thread is replaced.
    """

    def __init__(self, size: int, queue_size: int, stuck_after_s: float) -> None:
        self.size, self.queue_size, self.stuck_after_s = size, queue_size, stuck_after_s
        self._tasks: deque[Task] = deque()
        self._idle_tasks: deque[IdleTask] = deque()
        self._lock = threading.Lock()
        self._has_work = threading.Condition(self._lock)
        self._is_idle = threading.Condition(self._lock)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers: list[_Worker] = []
        self._abandoned: list[_Worker] = []
        self._busy = 0
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the threads; results are delivered to `loop`."""
        self._loop, self._closing, self._threads = loop, threading.Event(), []
        self._workers = [self._start_worker() for _ in range(self.size)]
        for target in (self._watch, self._run_idle):
            self._threads.append(threading.Thread(target=target, daemon=True))
            self._threads[-1].start()

    def close(self, timeout_s: float = 1.0) -> None:
        """Stop the threads after their current tasks; waits at most `timeout_s` for all."""
        with self._lock:
            self._closing.set()
            self._has_work.notify_all()
            self._is_idle.notify_all()
        end = time.monotonic() + timeout_s
        for thread in [*self._threads, *(each.thread for each in self._workers if each.thread)]:
            thread.join(max(0.0, end - time.monotonic()))

    @property
    def waiting(self) -> int:
        """Number of tasks that wait for a worker."""
        return len(self._tasks)

    @property
    def busy(self) -> int:
        """Number of workers that predict."""
        return self._busy

    @property
    def abandoned(self) -> int:
        """Number of threads that are stuck, and were replaced."""
        return sum(each.is_alive() for each in self._abandoned)

    def is_live(self) -> bool:
        """Return True if all workers run and none is stuck.

        A stuck thread cannot be ended: a restart of the server frees its memory and its core.
        """
        now = time.perf_counter()
        overdue = any(
            each.tasks and now - each.since > self.stuck_after_s for each in self._workers
        )
        return not overdue and not self.abandoned and all(map(_Worker.is_alive, self._workers))

    def submit(self, version: LoadedVersion, image: Any) -> Task:
        """Queue an image, and return its task. Call it in the event loop.

        Raises:
            PredictionError: the queue is full.
        """
        if self._loop is None or self._closing.is_set():
            raise PredictionError("The server ends.", 503, "draining", retry_after=RETRY_AFTER_S)
        # an idle worker has not yet taken a task that was queued a moment ago
        if len(self._tasks) >= self.queue_size + self.size - self._busy:
            raise PredictionError(
                f"The queue is full: {len(self._tasks)} images wait. Try again later.",
                503,
                "queue",
                retry_after=RETRY_AFTER_S,
            )
        task = Task(version, image, self._loop)
        with self._lock:
            self._tasks.append(task)
            self._has_work.notify()
        return task

    def submit_idle(self, task: IdleTask) -> bool:
        """Queue work for idle time; return False if too much waits, and it was dropped."""
        with self._lock:
            if len(self._idle_tasks) >= IDLE_TASKS or self._closing.is_set():
                return False
            self._idle_tasks.append(task)
            self._is_idle.notify()
        return True

    def _start_worker(self) -> _Worker:
        worker = _Worker()
        worker.thread = threading.Thread(target=self._run, args=(worker,), daemon=True)
        worker.thread.start()
        return worker

    def _run(self, worker: _Worker) -> None:
        """Predict queued images until the pool is closed or the thread was replaced."""
        while tasks := self._take(worker):
            try:
                results = tasks[0].version.predict_batch([task.image for task in tasks])
            except BaseException as error:  # a thread that ended would leave its requests open
                results = [_unexpected(error) for _ in tasks]
            self._finish(worker, tasks, results)

    def _take(self, worker: _Worker) -> list[Task]:
        """Return the next tasks for a worker; empty if it must end.

        They are several only if they wait already, and their version is faster with a batch.
        """
        with self._lock:
            tasks: list[Task] = []
            while not tasks:
                while not self._tasks:
                    if self._closing.is_set() or worker.is_abandoned:
                        return []
                    self._has_work.wait()
                if worker.is_abandoned:
                    self._has_work.notify()  # for another worker
                    return []
                tasks = self._next_tasks()
            now = time.perf_counter()
            worker.tasks, worker.since = tasks, now
            self._busy += 1
        for task in tasks:
            task.queue_s = now - task.added_at
        return tasks

    def _next_tasks(self) -> list[Task]:
        """Remove the tasks of one prediction from the queue, and return them.

        The other workers get their share of those that wait.
        """
        tasks: list[Task] = []
        share = math.ceil(len(self._tasks) / self.size)
        while self._tasks:
            if self._tasks[0].future.cancelled():  # it was late, and another version answered
                self._tasks.popleft()
                continue
            version = self._tasks[0].version
            if tasks and (
                version is not tasks[0].version or len(tasks) >= min(version.batch_size, share)
            ):
                break
            tasks.append(self._tasks.popleft())
        return tasks

    def _finish(self, worker: _Worker, tasks: Sequence[Task], results: Sequence[Result]) -> None:
        with self._lock:
            if not worker.is_abandoned:
                self._busy -= 1
                if self._idle_tasks:
                    self._is_idle.notify()
            worker.tasks = ()
        self._deliver(tasks, results)

    def _deliver(self, tasks: Sequence[Task], results: Sequence[Result | PredictionError]) -> None:
        """Set the results of tasks in the event loop."""
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_set_results, tasks, results)
        except RuntimeError:  # the loop was closed: nobody waits any more
            log.debug("%d results came after the end of the server.", len(tasks))

    def _run_idle(self) -> None:
        """Do idle work while no request waits, and two cores are idle: one for the event loop.

        At this priority the thread gets no time while others use all cores. If it then holds
        Python's lock, they wait for it.
        """
        _lower_priority()
        most_busy = max(0, self.size - 2)  # workers
        while True:
            with self._lock:
                while not self._idle_tasks or self._tasks or self._busy > most_busy:
                    if self._closing.is_set():
                        return
                    self._is_idle.wait()
                if self._closing.is_set():
                    return
                task = self._idle_tasks.popleft()
            try:
                task.on_result(task.version.predict_batch([task.image])[0])
            except Exception:  # the next tasks must not suffer
                log.exception("Idle work failed.")

    def _watch(self) -> None:
        """Replace stuck workers, and fail their tasks and those that wait too long."""
        while not self._closing.wait(WATCH_EVERY_S):
            now = time.perf_counter()
            with self._lock:
                overdue = []
                while self._tasks and now - self._tasks[0].added_at > self.stuck_after_s:
                    overdue.append(self._tasks.popleft())
                stuck = [
                    each
                    for each in self._workers
                    if (each.tasks and now - each.since > self.stuck_after_s) or not each.is_alive()
                ]
                for worker in stuck:
                    overdue += worker.tasks
                    self._replace(worker)
            if overdue:
                late = PredictionError(
                    f"The prediction took more than {self.stuck_after_s:g} s.", 504, "timeout"
                )
                self._deliver(overdue, [late] * len(overdue))

    def _replace(self, worker: _Worker) -> None:
        """Start another thread for a stuck one, unless too many are stuck. The lock is held."""
        if len(self._abandoned) >= MAX_ABANDONED * self.size:
            self._abandoned = [each for each in self._abandoned if each.is_alive()]
        if len(self._abandoned) >= MAX_ABANDONED * self.size or self._closing.is_set():
            return
        version = worker.tasks[0].version.uri if worker.tasks else "no version"
        try:
            successor = self._start_worker()
        except RuntimeError as error:  # the system has no thread left; the next round tries again
            log.error("A worker is stuck with %s, and cannot be replaced: %s.", version, error)
            return
        log.error("A worker is stuck with %s: it is replaced. Restart the server.", version)
        self._busy -= bool(worker.tasks)
        worker.is_abandoned = True
        self._abandoned.append(worker)
        self._workers[self._workers.index(worker)] = successor


def _set_results(tasks: Sequence[Task], results: Sequence[Result | PredictionError]) -> None:
    for task, result in zip(tasks, results, strict=True):
        if task.future.done():  # the client went away, or the task was late
            continue
        if isinstance(result, Exception):
            task.future.set_exception(result)
        else:
            task.future.set_result(result)


def _unexpected(error: BaseException) -> ModelError:
    """Return the failure of a task; the service logs its cause, which no client gets."""
    failed = ModelError(f"The prediction failed: {error!r}", 500, "model")
    failed.__cause__ = error
    return failed


def _lower_priority() -> None:
    """Let the operating system run this thread only when no other one wants the core."""
    if sys.platform == "linux":  # 0 is the calling thread
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError as error:
            log.debug("The priority of idle work cannot be lowered: %s", error)
